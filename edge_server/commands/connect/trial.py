"""Tries a provider: reaches it, chooses a model, and asks for a few words."""

from __future__ import annotations

import time
from contextlib import closing

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.inquiry import ServerFacts
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.prices import estimate
from spillover.edge_server.commands.connect.target import ANY_MODEL
from spillover.edge_server.errors import ConfigError
from spillover.runtime.events import Delta, Finished, Leg
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling

QUESTION = "Reply with one word: ready"
"""All that leaves the device."""
_MAX_TOKENS = 32
_MAX_LISTED = 20


class Trial(Struct, frozen=True, kw_only=True):
    """How a short request went."""

    text: str
    seconds: float
    """Until the first text."""
    leg: Leg


def with_model(settings: ProviderSettings, facts: ServerFacts | None) -> ProviderSettings:
    """*settings* with what the server says: its only model, or the first one of a Spillover, which
    is the one that it serves, if none was named; and its context.

    Raises ConfigError, which lists the models, where there is a choice.
    """
    models = {model.name: model for model in facts.models} if facts is not None else {}
    if settings.model == ANY_MODEL:
        is_spillover = facts is not None and facts.kind == "spillover"
        if len(models) != 1 and not (models and is_spillover):
            if not models:
                raise ConfigError(
                    f"{settings.address}: it lists no models: is it the right address? choose one "
                    "with --model if so"
                )
            listed = ", ".join(sorted(models)[:_MAX_LISTED])
            raise ConfigError(f"{settings.address}: choose a model with --model: {listed}")
        settings = msgspec.structs.replace(settings, model=next(iter(models)))
    found = models.get(settings.model)
    if found is not None and found.n_ctx is not None:
        settings = msgspec.structs.replace(settings, n_ctx=found.n_ctx)
    return settings


def try_out(engine: CloudEngine, budget: Budget) -> Trial:
    """Ask for a word, within the budget, and book it. Raises ProviderError and KeptLocal."""
    request = GenerationRequest(
        messages=(Message(role="user", content=QUESTION),),
        sampling=Sampling(temperature=0),
        max_tokens=_MAX_TOKENS,
    )
    engine.check(request)
    began, first, text = time.monotonic(), None, ""
    finished: Finished | None = None
    with budget.reserve(engine.name, estimate(request, engine.settings.known_prices)) as held:
        held.note(0)
        try:
            with closing(engine.stream(request)) as events:
                for event in events:
                    first = first or time.monotonic()
                    if isinstance(event, Delta):
                        text += event.text
                    elif isinstance(event, Finished):
                        finished = event
        except ProviderError as error:
            if not error.may_bill:
                held.release()
            raise
        if finished is None:
            raise ProviderError(engine.name, "it gave no answer")
        usage = finished.usage
        leg = Leg(
            writer=engine.writer,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            duration_ms=(time.monotonic() - began) * 1000,
        )
        leg = held.settle(leg, usage.cached_tokens)
    return Trial(text=text, seconds=(first or began) - began, leg=leg)
