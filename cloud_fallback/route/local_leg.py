"""The local model writes a part of an answer, watched by the policies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.watch import Watch
from spillover.cloud_fallback.seam.answer_text import AnswerText
from spillover.cloud_fallback.seam.sentences import SentenceFinish
from spillover.runtime.alarms import Alarm, Alarms
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import Engine
from spillover.runtime.events import Delta, EngineEvent, Finished, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import GenerationRequest


class LegEnd(Struct, frozen=True, kw_only=True):
    """How a local leg ended. *reason* None: the answer is complete."""

    finished: Finished
    reason: Reason | None
    triggered_at: float
    """Clock time of the reason."""
    withheld: str = ""
    """The last characters of the good text, which may begin a stop string: not sent yet."""
    dropped: tuple[EngineEvent, ...] = ()
    """What was kept back and not sent, *withheld* included: it goes out after all when nobody
    else can go on."""
    bad_chars: int = 0
    """So many characters at the end of what was sent are no good."""
    deferred: Reason | None = None
    """A soft reason that has to wait for the next turn."""


class Grace(Struct, frozen=True, kw_only=True):
    """How much longer a leg may run to end its sentence."""

    tokens: int
    seconds: float


class LocalLeg:
    """One stream of the local engine. The thread that iterates stream() owns it; trigger() may be
    called from any thread."""

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        *,
        make_watch: Callable[[Callable[[Reason], None]], Watch],
        alarms: Alarms,
        clock: Callable[[], float],
        logprobs: int | None,
        stops: tuple[str, ...],
        said: Callable[[], str],
        grace: Grace | None,
        defers: bool,
    ) -> None:
        """*logprobs*: what the client asked for, as the request's may be more. *said*: what the
        client has of the answer. *grace*: soft reasons wait for
        the end of a sentence. *defers*: they wait for the next turn."""
        self._engine = engine
        self._request = request
        self._alarms = alarms
        self._clock = clock
        self._logprobs = logprobs
        self._stops = stops
        self._said = said
        self._grace = grace
        self._defers = defers
        self._deferred: Reason | None = None
        self._n_seen = 0
        self._in_tool_call = False
        self._has_begun = False
        self._is_over = False
        self._cancellation = Cancellation()
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._triggered_at = 0.0
        self._finish: SentenceFinish | None = None
        self._finish_until: float | None = None
        self._alarm: Alarm | None = None
        self._held: list[EngineEvent] = []
        self._n_sent = 0
        self.watch = make_watch(self.trigger)

    def trigger(self, reason: Reason) -> None:
        """Another writer is to go on: end this leg now, or with its sentence."""
        with self._lock:
            if self._reason is not None:
                return
            # Before the first word there is neither a sentence to end nor a turn to wait for.
            waits = not reason.is_hard and reason.keep_chars is None and self._has_begun
            # Half a tool call can neither be continued by somebody else nor taken back.
            if self._in_tool_call or (waits and self._defers):
                self._deferred = reason
                self.watch.defer()
                return
            self._reason, self._triggered_at = reason, self._clock()
            if self._grace is not None and waits:
                self._finish_until = self._triggered_at + self._grace.seconds
                self._alarms.at(self._finish_until, self._cancellation.cancel)
                return
        self._cancellation.cancel()

    def kept_back(self) -> tuple[EngineEvent, ...]:
        """What was said and not sent, once the engine has broken."""
        return tuple(map(self._shown, self._held))

    def stop(self) -> None:
        """End the stream soon, without a reason: nothing more is wanted of it."""
        self._cancellation.cancel()

    def worker_died(self, patience_s: float, reason: Reason) -> None:
        """Hand over for *reason* unless something comes within *patience_s*: the engine goes on
        by itself in a new process. Any thread may call it."""
        n_seen = self._n_seen

        def look_again() -> None:
            if self._n_seen == n_seen:
                self.trigger(reason)

        self._alarms.after(patience_s, look_again)

    def stream(self, cancellation: Cancellation) -> Generator[EngineEvent, None, LegEnd]:
        """Yield what the client may see; everything but the end, which is returned.

        Raises what the engine raises.
        """
        cancellation.subscribe(self._cancellation.cancel)
        self._arm()
        try:
            with closing(self._engine.stream(self._request, self._cancellation)) as events:
                for event in events:
                    if isinstance(event, Finished):
                        return (yield from self._end(event))
                    yield from self._take(event)
            raise AssertionError("an engine's stream ends with Finished")
        finally:
            cancellation.unsubscribe(self._cancellation.cancel)
            with self._lock:
                self._is_over = True
                if self._alarm is not None:
                    self._alarm.cancel()

    # --- silence ----------------------------------------------------------------------------

    def _arm(self) -> None:
        """Look again when silence would become a reason; nothing is done for each token."""
        at = self.watch.next_look()
        with self._lock:
            if at is not None and not self._is_over:
                self._alarm = self._alarms.at(at, self._look)

    def _look(self) -> None:
        reason = self.watch.on_silence()
        if reason is not None:
            self.trigger(reason)
        else:
            self._arm()

    # --- events -----------------------------------------------------------------------------

    def _take(self, event: EngineEvent) -> Generator[EngineEvent]:
        self._n_seen += 1
        verdict = self.watch.see(event)
        if verdict == "handoff" and self.watch.reason is not None:
            self.trigger(self.watch.reason)
        if self._finish_until is not None:
            yield from self._take_in_grace(event, self._finish_until)
        elif self._reason is not None or verdict == "hold":
            self._held.append(event)
        else:
            if self._held:
                yield from self._release()
            yield self._passed(event)

    def _take_in_grace(self, event: EngineEvent, until: float) -> Generator[EngineEvent]:
        """The sentence may end first."""
        if self._cancellation.cancelled or not isinstance(event, Delta):
            self._held.append(event)
            return
        yield from self._release()
        if self._finish is None:
            assert self._grace is not None
            self._finish = SentenceFinish(self._said(), until=until, max_tokens=self._grace.tokens)
        text = self._finish.feed(event.text, len(event.token_ids), self._clock())
        head, tail = _cut(event, len(text))
        if tail.text:
            self._held.append(tail)
        else:
            head = event
        if head.text:
            yield self._passed(head)
        if self._finish.is_done:
            self._cancellation.cancel()

    def _release(self) -> Generator[EngineEvent]:
        held, self._held = self._held, []
        for event in held:
            yield self._passed(event)

    def _passed(self, event: EngineEvent) -> EngineEvent:
        """*event* goes to the client."""
        if isinstance(event, Delta):
            self._n_sent += len(event.text)
            self._has_begun |= bool(event.text)
        elif isinstance(event, ToolCallDelta):
            self._in_tool_call = self._has_begun = True
        return self._shown(event)

    def _shown(self, event: EngineEvent) -> EngineEvent:
        """*event* with no more logprobs than the client asked for."""
        if isinstance(event, Delta | ReasoningDelta | ToolCallDelta) and event.logprobs:
            return _with_logprobs(event, self._logprobs)
        return event

    # --- the end ----------------------------------------------------------------------------

    def _end(self, event: Finished) -> Generator[EngineEvent, None, LegEnd]:
        with self._lock:
            reason = self._reason
        found = self.watch.finished(event)
        if event.reason != "cancelled":
            # It came to its end by itself, be it in the moment in which it was triggered.
            reason = found
            self._triggered_at = self._clock()
        if reason is None:
            yield from self._release()
            return LegEnd(
                finished=event,
                reason=None,
                triggered_at=self._triggered_at,
                deferred=self._deferred,
            )
        good = self._good_text(reason)
        withheld = _open_end(good, self._stops)
        dropped = yield from self._send(len(good) - len(withheld), reason)
        return LegEnd(
            finished=event,
            reason=reason,
            triggered_at=self._triggered_at,
            withheld=withheld,
            dropped=dropped,
            bad_chars=max(self._n_sent - reason.keep_chars, 0)
            if reason.keep_chars is not None
            else 0,
            deferred=self._deferred,
        )

    def _good_text(self, reason: Reason) -> str:
        """What is good of the text that was kept back."""
        if self._finish is not None and self._finish.is_done:
            return ""
        text = "".join(event.text for event in self._held if isinstance(event, Delta))
        if reason.keep_chars is None:
            return text
        return text[: max(reason.keep_chars - self._n_sent, 0)]

    def _send(
        self, n_chars: int, reason: Reason
    ) -> Generator[EngineEvent, None, tuple[EngineEvent, ...]]:
        """Send the first *n_chars* characters of what was kept back; what is left of it."""
        for index, event in enumerate(self._held):
            if isinstance(event, ToolCallDelta):
                # The next writer makes it anew, as a whole.
                return tuple(self._shown(e) for e in self._held[index:])
            if not isinstance(event, Delta):
                if reason.keep_chars is None or n_chars:
                    yield self._passed(event)
                continue
            if len(event.text) > n_chars:
                head, tail = _cut(event, n_chars)
                if head.text:
                    yield self._passed(head)
                rest = self._held[index + 1 :]
                return tuple(self._shown(e) for e in (tail, *rest))
            n_chars -= len(event.text)
            yield self._passed(event)
        return ()


def _open_end(text: str, stops: tuple[str, ...]) -> str:
    """The end of *text* that may begin a stop string."""
    answer = AnswerText(stops)
    answer.feed(text)
    return text[answer.n_sent :]


def _cut(event: Delta, n_chars: int) -> tuple[Delta, Delta]:
    """*event* in two; its tokens go with the second part."""
    head = Delta(choice=event.choice, text=event.text[:n_chars])
    return head, msgspec.structs.replace(event, text=event.text[n_chars:])


def _with_logprobs(
    event: Delta | ReasoningDelta | ToolCallDelta, n_top: int | None
) -> Delta | ReasoningDelta | ToolCallDelta:
    """*event* with no more logprobs than the client asked for."""
    if n_top is None:
        return msgspec.structs.replace(event, logprobs=())
    logprobs = tuple(
        record
        if len(record.top) <= n_top
        else msgspec.structs.replace(record, top=record.top[:n_top])
        for record in event.logprobs
    )
    return msgspec.structs.replace(event, logprobs=logprobs)
