"""What the client has received of one answer, and who wrote it."""

from __future__ import annotations

from spillover.cloud_fallback.events import Replace, StreamEvent
from spillover.runtime.events import (
    Delta,
    Finished,
    FinishReason,
    Leg,
    Measures,
    Prefilling,
    Queued,
    Timings,
    ToolCallDelta,
    Usage,
    WriterId,
)
from spillover.runtime.request import GenerationRequest

WEIGHT_PER_TOKEN = 12
"""To estimate the tokens of a stream before its usage arrives, or if it never does."""


class AnswerSoFar:
    """Remembers what was sent. Takes every event for the client, at constant cost."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.legs: list[Leg] = []
        self.n_handoffs = 0
        self.began_tool_call = False
        self.n_chars = 0
        self.n_unsent = 0
        """Tokens that the local model wrote, and that are held back or dropped."""
        self._n_lost = 0
        self._n_taken_back = 0
        self._parts: list[str] = []
        self._n_prompt = 0
        self._n_cached: int | None = None
        self._queue_ms = 0.0
        self._prefill_ms = 0.0

    @property
    def text(self) -> str:
        """All text the client has. Joins its parts, so do not call it for every token."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def snapshot(self) -> str:
        """The same for other threads, which must not join the parts."""
        return "".join(list(self._parts))

    @property
    def has_begun(self) -> bool:
        """Whether the client has any text or tool call of the answer."""
        return self.n_chars > 0 or self.began_tool_call

    @property
    def n_tokens(self) -> int:
        """Tokens of all writers together, reasoning included."""
        return sum(leg.completion_tokens for leg in self.legs)

    @property
    def remaining_tokens(self) -> int | None:
        """What remains of max_tokens; None: no limit. A cloud model's unseen reasoning, and text
        that was taken back or never sent, whoever wrote it, do not count."""
        return self.tokens_left(self.n_chars)

    def tokens_left(self, keep_chars: int) -> int | None:
        """remaining_tokens after the text beyond *keep_chars* is taken back."""
        limit = self.request.max_tokens
        if limit is None:
            return None
        return max(limit - self._n_shown_tokens + self._n_tokens_behind(keep_chars), 0)

    def _n_tokens_behind(self, keep_chars: int) -> int:
        """An estimate: the text after *keep_chars* has a proportional share of the tokens."""
        share = max(self.n_chars - keep_chars, 0) / max(self.n_chars, 1)
        return round(share * self._n_shown_tokens)

    @property
    def _n_shown_tokens(self) -> int:
        unseen = sum(leg.reasoning_tokens for leg in self.legs if leg.writer.origin == "cloud")
        unseen += self._n_lost + self.n_unsent + self._n_taken_back
        return max(self.n_tokens - unseen, 0)

    def sent(self, event: StreamEvent) -> None:
        """Note that *event* goes to the client."""
        match event:
            case Delta(text=text):
                if text:
                    self._parts.append(text)
                    self.n_chars += len(text)
            case ToolCallDelta():
                self.began_tool_call = True
            case Replace(keep_chars=keep):
                self._n_taken_back += self._n_tokens_behind(keep)
                self._parts = [self.text[:keep]]
                self.n_chars = len(self._parts[0])
            case Queued(n_prompt_tokens=n):
                self._n_prompt = self._n_prompt or n
            case Prefilling(n_cached=n) if self._n_cached is None:  # later ones found their own
                self._n_cached = n

    def leg_ended(
        self, leg: Leg, timings: Timings | None = None, *, lost_share: float = 0.0
    ) -> None:
        """Note that a writer has ended, successfully or not; *leg* is its part, of which the client
        never gets *lost_share*, reasoning aside."""
        self.legs.append(leg)
        self._n_lost += round(lost_share * (leg.completion_tokens - leg.reasoning_tokens))
        if timings is not None and len(self.legs) == 1:
            self._queue_ms, self._prefill_ms = timings.queue_ms, timings.prefill_ms

    def finished(self, reason: FinishReason, stop: str | None = None) -> Finished:
        """The end of an answer of several writers, or of one that began in the cloud."""
        whole = self._with(self.legs)
        return Finished(reason=reason, stop=stop, usage=whole.usage, timings=whole.timings)

    def measured(self, leg: Leg) -> Measures:
        """What the answer has taken so far, with the part of *leg*, which has not ended."""
        return self._with([*self.legs, leg])

    def _with(self, legs: list[Leg]) -> Measures:
        n_prompt = self._n_prompt or next((leg.prompt_tokens for leg in legs), 0)
        return Measures(
            usage=Usage(
                prompt_tokens=n_prompt,
                cached_tokens=min(self._n_cached or 0, n_prompt),
                completion_tokens=sum(leg.completion_tokens for leg in legs),
                reasoning_tokens=sum(leg.reasoning_tokens for leg in legs),
                legs=tuple(legs),
            ),
            timings=Timings(
                queue_ms=self._queue_ms,
                prefill_ms=self._prefill_ms,
                decode_ms=sum(leg.duration_ms for leg in legs),
            ),
        )


def local_leg(writer: WriterId, part: Finished | Measures) -> Leg:
    """The leg of the local model, from the end of its stream or as it is now."""
    usage, timings = part.usage, part.timings
    return Leg(
        writer=writer,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        duration_ms=timings.queue_ms + timings.prefill_ms + timings.decode_ms,
        cost_usd=0.0,
    )


def weight_of(text: str) -> int:
    """How much *text* adds to a weight for estimated_tokens(): a quarter of a token for each
    character, and a third for each byte of UTF-8 that it takes beyond one. Of Chinese, a token is
    hardly more than a character."""
    return 4 * len(text.encode("utf-8", "surrogatepass")) - len(text)


def estimated_tokens(weight: int) -> int:
    """An estimate of the tokens of a text, rounded up."""
    return -(-weight // WEIGHT_PER_TOKEN)
