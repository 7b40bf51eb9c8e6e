"""A provider's stream: restored, joined to the answer so far, and counted."""

from __future__ import annotations

from collections.abc import Callable, Generator

from spillover.cloud_fallback.errors import Truncated
from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.privacy.restorer import Restorer
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.pump import EndOfStream, Pump
from spillover.cloud_fallback.route.answer_so_far import estimated_tokens, weight_of
from spillover.cloud_fallback.route.clearance import Clearance
from spillover.cloud_fallback.route.joint import Joint
from spillover.cloud_fallback.spending.prices import estimated_prompt_tokens
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    Leg,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
)


class ProviderStream:
    """For one use. Everything happens in the thread that iterates events()."""

    def __init__(
        self,
        provider: CloudEngine,
        cleared: Clearance,
        *,
        joint: Joint,
        max_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        """*max_tokens*, including reasoning, ends a stream that does not end by itself."""
        self._provider = provider
        self._cleared = cleared
        self._joint = joint
        self._text = cleared.redacted.restorer()
        self._reasoning = cleared.redacted.reasoning_restorer()
        self._arguments: dict[int, Restorer] = {}
        self._max_tokens = max_tokens
        self._clock = clock
        self._started_at = clock()
        self._weight = 0
        self._reasoning_weight = 0
        self._n_visible = 0
        self._n_text = 0
        self._finished: Finished | None = None
        self.is_empty = True
        """Whether it has produced neither text nor a tool call."""
        self.cancellation = Cancellation()

    @property
    def has_answered(self) -> bool:
        """Whether the provider has sent anything."""
        if self._weight > 0:
            return True
        return self._finished is not None and not _is_cancelled(self._finished)

    @property
    def n_chars(self) -> int:
        """Characters of it that the client has received."""
        return self._joint.n_chars

    @property
    def ignored_prefill(self) -> bool:
        """See Joint."""
        return self._joint.ignored_prefill

    @property
    def is_ended_by_provider(self) -> bool:
        """False: it was ended here, at a stop string or at the requested length."""
        return self._finished is not None and not self._joint.is_over

    @property
    def end_reason(self) -> FinishReason:
        """Why it ended, once it has ended."""
        if self._finished is not None and self.is_ended_by_provider:
            return self._finished.reason
        return "length" if self._joint.stopped is None else "stop"

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        if self._finished is not None and self.is_ended_by_provider:
            return self._finished.stop
        return self._joint.stopped

    def events(self, cancellation: Cancellation) -> Generator[StreamEvent]:
        """Yield what the client may see, all but the end.

        Raises what the provider's stream raises, and BudgetExceeded when it costs too much; text
        held in doubt is then dropped.
        """
        with cancellation.subscribed(self.cancellation.cancel):
            with Pump(self._open, self.cancellation) as pump:
                while self._finished is None:
                    yield from self._next(pump)
                    if self._joint.is_over or self._is_endless:
                        break
            yield from self._flush()

    @property
    def _is_endless(self) -> bool:
        return estimated_tokens(self._weight) >= self._max_tokens

    def _open(self, cancellation: Cancellation) -> Generator[EngineEvent]:
        return self._provider.stream(self._cleared.request, cancellation)

    def _next(self, pump: Pump) -> list[StreamEvent]:
        deadline = self._joint.deadline
        wait_s = None if deadline is None else max(deadline - self._clock(), 0.0)
        try:
            event = pump.next(wait_s)
        except EndOfStream:
            raise Truncated(self._provider.name, "the stream ended without an end") from None
        if event is None:
            return self._joint.on_deadline()
        if not self.has_answered and not _is_cancelled(event):
            self._cleared.permit.answered()
        return self._take(event)

    def _take(self, event: EngineEvent) -> list[StreamEvent]:
        match event:
            case Delta(text=text):
                self._count(text)
                self._n_text += len(text)
                self._n_visible += len(text)
                self.is_empty &= not text
                return self._joint.feed(self._text.feed(text))
            case ReasoningDelta(text=text):
                self._count(text)
                self._reasoning_weight += weight_of(text)
                restored = self._reasoning.feed(text)
                return [ReasoningDelta(text=restored)] if restored else []
            case ToolCallDelta():
                self._count(event.arguments)
                self._n_visible += len(event.arguments)
                self.is_empty = False
                return [*self._joint.release(), *self._tool_call(event)]
            case Finished():
                self._finished = event
        return []

    def _count(self, text: str) -> None:
        self._weight += weight_of(text)
        self._cleared.reservation.note(estimated_tokens(self._weight))

    def _tool_call(self, event: ToolCallDelta) -> list[StreamEvent]:
        if event.index not in self._arguments:
            self._arguments[event.index] = self._cleared.redacted.argument_restorer()
        restorer = self._arguments[event.index]
        arguments = restorer.feed(event.arguments)
        if event.id is None and event.name is None and not arguments:
            return []
        return [ToolCallDelta(index=event.index, id=event.id, name=event.name, arguments=arguments)]

    def _flush(self) -> Generator[StreamEvent]:
        """Send what was held, now that the provider has finished."""
        if self._finished is not None and self._finished.reason == "cancelled":
            return
        if self._joint.is_over:
            yield from self._joint.end()
            return
        if reasoning := self._reasoning.flush():
            yield ReasoningDelta(text=reasoning)
        yield from self._joint.feed(self._text.flush())
        yield from self._joint.end()
        for index, restorer in self._arguments.items():
            if rest := restorer.flush():
                yield ToolCallDelta(index=index, arguments=rest)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens from the provider's cache, which may cost less."""
        return self._finished.usage.cached_tokens if self._finished is not None else 0

    def leg(self) -> Leg:
        """The leg's usage without the price; estimated where the provider's own count never
        arrived."""
        usage = self._finished.usage if self._finished is not None else None
        if usage is None:
            usage = Usage(
                prompt_tokens=estimated_prompt_tokens(self._cleared.request),
                cached_tokens=0,
                completion_tokens=estimated_tokens(self._weight),
                reasoning_tokens=estimated_tokens(self._reasoning_weight),
                estimated=True,
            )
        return Leg(
            writer=self._provider.writer,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            duration_ms=1e3 * (self._clock() - self._started_at),
            estimated=usage.estimated,
        )

    @property
    def lost_share(self) -> float:
        """The share of all but its reasoning that the client did not get: what it repeated of the
        answer, or what was held in doubt when it failed. 1 where nothing came but its count."""
        lost = max(self._n_text - self.n_chars, 0)
        return lost / self._n_visible if self._n_visible else 1.0


def _is_cancelled(event: EngineEvent) -> bool:
    """The end of a request that we ended ourselves, without the provider's knowledge."""
    return isinstance(event, Finished) and event.reason == "cancelled"
