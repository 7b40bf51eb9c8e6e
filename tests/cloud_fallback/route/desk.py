"""A router on the bundled model and on fake providers, as a test sets it up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from spillover.cloud_fallback.events import Handoff, Replace, Seam, StreamEvent
from spillover.cloud_fallback.policy.sensors import DeviceReading, Sensors
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.settings import PrivacySettings
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.allowed import Fallback, Routing
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.resources import RouteResources
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions, RouteSettings
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineError
from spillover.runtime.events import Delta, EngineEvent, Finished
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from tests.answers import ask
from tests.fakes.fake import Fake

CALM = PolicySettings(switched_off=("low_confidence", "language", "wrong_script", "refusal"))
"""For tests in which only what they provoke leads to a handoff."""

DOUBTS: dict[str, Any] = {
    "p_wrong_hold": 0.0,
    "p_wrong_enter": 1.0,
    "p_wrong_forget": 0.0,
    "hold_tokens": 1024,
    "hold_s": 600,
}
"""Nearly all is kept back, and nothing is handed over for it."""

IN_CLOUD = RouteOptions(routing=Routing(prefer="cloud"))
DIALECTS: dict[str, dict[str, Any]] = {
    "openai": {"dialect": "openai"},
    "azure": {"dialect": "azure", "api_version": "2024-10-21", "deployment": "deployed"},
    "anthropic": {"dialect": "anthropic", "model": "claude-opus-4-6"},
    "gemini": {"dialect": "gemini", "model": "gemini-3.6-flash"},
    "cohere": {"dialect": "cohere"},
    "bedrock": {"dialect": "bedrock"},
}

OUT_OF_MEMORY = DeviceReading(memory_total_bytes=100, memory_available_bytes=1)
MUCH_MEMORY = DeviceReading(memory_total_bytes=100, memory_available_bytes=90)


def provider(fake: Fake, name: str = "fake", **fields: Any) -> ProviderSettings:
    """A provider of OpenAI's dialect at the address of *fake*, which counts as one in the cloud."""
    settings: dict[str, Any] = {
        "name": name,
        "dialect": "openai",
        "model": "cloud-model",
        "base_url": f"{fake.url}/v1",
        "key_variable": "FAKE_KEY",
        "is_local_network": False,
        **fields,
    }
    return ProviderSettings(**settings)


class Desk:
    """Everything a router needs, with the answers of the sensors under the test's control."""

    def __init__(
        self,
        engine: LocalEngine | HostedModel,
        folder: Path,
        providers: Iterable[ProviderSettings],
        *,
        fallback: str = "auto",
        fallback_unasked: Fallback = "never",
        policy: PolicySettings = CALM,
        settings: RouteSettings | None = None,
        budget: BudgetSettings | None = None,
        privacy: PrivacySettings | None = None,
    ) -> None:
        self.reading = DeviceReading()
        self._ids = itertools.count(1)
        cloud = CloudSettings(
            fallback=fallback,  # type: ignore[arg-type]  # a Literal
            fallback_unasked=fallback_unasked,
            route=settings or RouteSettings(warms_connections=False),
            data_dir=folder,
            providers=tuple(providers),
            policy=policy,
            privacy=privacy or PrivacySettings(),
            budget=budget or BudgetSettings(),
        )
        self.resources = RouteResources.open(
            cloud,
            {"FAKE_KEY": "sk-canary-4711"},
            sensors=Sensors(lambda: self.reading, period_s=0.05),
        )
        self.router = Router(engine, cloud, self.resources)
        engine.watch_deaths(self.router.worker_died)

    def start(
        self,
        request: GenerationRequest,
        options: RouteOptions | None = None,
        cancellation: Cancellation | None = None,
        owner: str = "",
    ) -> tuple[str, Generator[StreamEvent]]:
        """The id of an answer and its events."""
        options = msgspec.structs.replace(
            options or RouteOptions(), id=f"answer-{next(self._ids)}", owner=owner
        )
        return options.id, self.router.stream(request, options, cancellation)

    def ask(
        self,
        request: GenerationRequest,
        options: RouteOptions | None = None,
        *,
        hand_over_at: int | None = None,
        on_event: Callable[[StreamEvent], object] | None = None,
        owner: str = "",
    ) -> list[StreamEvent]:
        """All events; the user asks for the cloud once *hand_over_at* characters are there."""
        answer_id, stream = self.start(request, options, owner=owner)
        events: list[StreamEvent] = []
        asked = False
        with closing(stream):
            for event in stream:
                events.append(event)
                if on_event is not None:
                    on_event(event)
                if hand_over_at is not None and not asked and len(text(events)) >= hand_over_at:
                    asked = True
                    assert self.router.hand_over(answer_id)
        return events

    def close(self) -> None:
        self.router.close()


def text(events: Iterable[StreamEvent]) -> str:
    """What a client shows that understands Replace."""
    shown = ""
    for event in events:
        match event:
            case Delta(text=added):
                shown += added
            case Replace(keep_chars=keep):
                shown = shown[:keep]
    return shown


def end(events: Iterable[StreamEvent]) -> Finished:
    """The one end of a stream."""
    (found,) = [event for event in events if isinstance(event, Finished)]
    return found


def handoffs(events: Iterable[StreamEvent]) -> list[Handoff]:
    return [event for event in events if isinstance(event, Handoff)]


def seams(events: Iterable[StreamEvent]) -> list[Seam]:
    return [event for event in events if isinstance(event, Seam)]


def joined(said: str, *rests: str) -> str:
    """The text of several writers: blanks at a seam stand there once."""
    for rest in rests:
        said += rest.lstrip() if said[-1:].isspace() else rest
    return said


def long(**fields: Any) -> GenerationRequest:
    """A story that is still being told when it is handed over: it does not end by itself."""
    return ask(**{"max_tokens": 600, "ignore_eos": True, **fields})


def looping(engine: LocalEngine, **fields: Any) -> GenerationRequest:
    """A request whose local answer is one word again and again."""
    (word,) = engine.tokenize(" fox", add_special=False, parse_special=False)
    return ask(sampling=Sampling(temperature=0, logit_bias={word: 100.0}), **fields)


class Breaking:
    """The engine, which breaks after so much text."""

    n_deltas = 60

    def __init__(self, engine: LocalEngine, error: Exception | None = None) -> None:
        self._engine = engine
        self._error = error or EngineError("the worker died too often")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        n_deltas = 0
        with closing(self._engine.stream(request, cancellation)) as events:
            for event in events:
                n_deltas += isinstance(event, Delta)
                if n_deltas > self.n_deltas:
                    raise self._error
                yield event
