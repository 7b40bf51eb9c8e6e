"""Counts and clocks one answer of a provider."""

from __future__ import annotations

from spillover.cloud_fallback.http.exchange import Clock
from spillover.cloud_fallback.providers.dialects.dialect import Part, ProviderUsage
from spillover.cloud_fallback.spending.prices import BYTES_PER_TOKEN, estimated_prompt_tokens
from spillover.runtime.events import ReasoningDelta, Timings, ToolCallDelta, Usage
from spillover.runtime.request import GenerationRequest


class AnswerMeter:
    """Told of the parts as they come."""

    def __init__(self, request: GenerationRequest, clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._started = clock()
        self._answered: float | None = None
        self._first: float | None = None
        self._n_bytes = 0
        self._n_reasoning_bytes = 0

    @property
    def has_text(self) -> bool:
        """Whether anything of the answer has come."""
        return self._first is not None

    def answered(self) -> None:
        """The response's head is there."""
        self._answered = self._clock()

    def count(self, part: Part) -> None:
        if self._first is None:
            self._first = self._clock()
        text = part.arguments if isinstance(part, ToolCallDelta) else part.text
        n = len(text.encode("utf-8", "surrogatepass"))
        self._n_bytes += n
        if isinstance(part, ReasoningDelta):
            self._n_reasoning_bytes += n

    def estimate(self, counted: ProviderUsage | None, *, may_bill: bool) -> Usage:
        """An estimate that is rather too high, for an answer that did not come to its end;
        *counted*: what the provider had counted until then, unseen reasoning included. *may_bill*:
        of the prompt, too."""
        n_prompt = estimated_prompt_tokens(self._request) if may_bill else 0
        counted = counted or ProviderUsage(prompt_tokens=n_prompt, completion_tokens=0)
        return Usage(
            prompt_tokens=counted.prompt_tokens,
            cached_tokens=counted.cached_tokens,
            completion_tokens=max(_tokens(self._n_bytes), counted.completion_tokens),
            reasoning_tokens=max(_tokens(self._n_reasoning_bytes), counted.reasoning_tokens),
            estimated=True,
        )

    def usage(self, reported: ProviderUsage) -> Usage:
        """The provider's own count."""
        return Usage(
            prompt_tokens=reported.prompt_tokens,
            cached_tokens=reported.cached_tokens,
            completion_tokens=reported.completion_tokens,
            reasoning_tokens=reported.reasoning_tokens or self._reasoning_share(reported),
        )

    def _reasoning_share(self, reported: ProviderUsage) -> int:
        """An estimate: reasoning between tags is counted as text."""
        return reported.completion_tokens * self._n_reasoning_bytes // max(self._n_bytes, 1)

    def timings(self) -> Timings:
        """Until the response's head, from there to the first text, and from there to now."""
        now = self._clock()
        answered = now if self._answered is None else self._answered
        first = now if self._first is None else self._first
        return Timings(
            queue_ms=1e3 * (answered - self._started),
            prefill_ms=1e3 * max(first - answered, 0.0),
            decode_ms=1e3 * (now - first),
        )


def _tokens(n_bytes: int) -> int:
    return -(-n_bytes // BYTES_PER_TOKEN)
