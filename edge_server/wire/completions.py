"""OpenAI's text completions: body to requests, and what the answer needs to know of them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spillover.edge_server.wire.body import CommonBody, request_of
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.infill import infill_prompt
from spillover.edge_server.wire.prompts import engine_prompts, prompts_of, text_of
from spillover.runtime.engine import TextEngine
from spillover.runtime.request import MAX_CHOICES as MAX_CHOICES_EACH
from spillover.runtime.request import GenerationRequest

MAX_CHOICES = 256
"""Prompts times answers for each."""


class CompletionBody(CommonBody, frozen=True, kw_only=True):
    """POST /v1/completions; *prompt* is a text, token ids, or a list of such prompts."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class Completions(Struct, frozen=True, kw_only=True):
    """One request for each prompt; choices are numbered prompt by prompt."""

    requests: tuple[GenerationRequest, ...]
    n_wanted: int
    """Choices to show of each prompt; the others (best_of) are only compared."""
    echoes: tuple[str, ...]
    """What stands before the answer of each prompt."""

    @property
    def n_choices(self) -> int:
        return len(self.requests) * self.n_wanted


def completions_of(body: CompletionBody, engine: TextEngine) -> Completions:
    """The requests of a body, or a 400 that names the field."""
    n_wanted = 1 if body.n is None else body.n
    n = n_wanted if body.best_of is None else body.best_of
    _check_combinations(body, n_wanted, n)
    prompts = prompts_of(body.prompt)
    if n * len(prompts) > MAX_CHOICES:
        raise bad_request(f"{n * len(prompts)} answers are more than {MAX_CHOICES}", "prompt")
    if body.suffix:
        tokens = tuple(infill_prompt(engine, text_of(engine, p), body.suffix) for p in prompts)
    else:
        tokens = engine_prompts(engine, prompts)  # type: ignore[assignment]  # texts and ids alike
    logprobs = body.logprobs
    if logprobs is None and n > n_wanted:
        logprobs = 0
    fields = {"max_tokens": body.max_tokens, "logprobs": logprobs, "n": n}
    return Completions(
        requests=tuple(request_of(body, {**fields, "prompt": prompt}) for prompt in tokens),
        n_wanted=n_wanted,
        echoes=tuple(text_of(engine, p) for p in prompts) if body.echo else ("",) * len(prompts),
    )


def _check_combinations(body: CompletionBody, n_wanted: int, n: int) -> None:
    if n > MAX_CHOICES_EACH:
        name = "n" if body.best_of is None else "best_of"
        raise bad_request(f"{name}: {n} answers to a prompt are more than {MAX_CHOICES_EACH}", name)
    if n < n_wanted:
        raise bad_request("best_of must be at least n", "best_of")
    if n > n_wanted and body.stream:
        raise bad_request("best_of cannot be streamed: the best is known at the end", "best_of")
    if body.echo and body.logprobs is not None:
        raise bad_request("logprobs are given for the answer only, not with echo", "echo")
    if body.echo and body.suffix:
        raise bad_request("echo and suffix do not go together", "echo")
