"""The local model's stream, watched by the policies, which may end it early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeAlias, get_args

from spillover.cloud_fallback.events import HandoffMode, StreamEvent
from spillover.cloud_fallback.policy.reason import QUALITY, PromptCode, Reason
from spillover.cloud_fallback.policy.watch import Watch
from spillover.cloud_fallback.privacy.consent import Question
from spillover.cloud_fallback.providers.pump import Pump
from spillover.cloud_fallback.route.answer_so_far import AnswerSoFar
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.cloud_fallback.route.stopped import Complete, Stopped, WriterEnd
from spillover.cloud_fallback.route.unsent_events import cut, split, text_of, with_logprobs
from spillover.cloud_fallback.seam.answer_text import AnswerText
from spillover.cloud_fallback.seam.limits import SentenceFinish
from spillover.cloud_fallback.seam.notices import is_worth_keeping
from spillover.runtime.alarms import Alarm, Alarms
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import Engine
from spillover.runtime.events import Delta, EngineEvent, Finished, ToolCallDelta
from spillover.runtime.request import GenerationRequest

UNWANTED = QUALITY | frozenset(get_args(PromptCode))
"""Reasons for which the local model's text is not wanted if another writer may go on."""


def is_unwanted(reason: Reason) -> bool:
    """Whether the user is asked about another text, not about the rest of this one. The answer
    then does not end before the reply."""
    return reason.code in UNWANTED or reason.keep_chars is not None


Ask: TypeAlias = Callable[[Reason], Generator[StreamEvent, None, bool | Question]]
"""Asks the user about a handoff: whether it may be, as far as that is known, or the question."""

MakeWatch = Callable[[Callable[[Reason], None]], Watch]
"""Makes a watch that calls back with the reason for a handoff."""


class WatchedStream:
    """The thread that iterates events() owns it; hand_over(), trigger() and worker_died() may be
    called from any thread."""

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        *,
        answer: AnswerSoFar,
        mode: HandoffMode,
        settings: RouteSettings,
        make_watch: MakeWatch,
        alarms: Alarms,
        clock: Callable[[], float],
        ask: Ask | None,
        end_question: Callable[[], Generator[StreamEvent]],
        may_replace: bool,
        hides_first_word: bool = False,
    ) -> None:
        """*request* continues *answer*. *mode*: with "finish_sentence" a soft reason waits for
        the end of the sentence, with "at_turn" for the next turn. *ask*: nothing is handed over
        before the user agrees, and until then the model goes on; what is bad is held back then,
        unless the client can take it back (*may_replace*). *end_question* notes the reply.
        *hides_first_word*: text too short to be continued waits until it is clear who writes."""
        self._engine = engine
        self._request = request
        self._answer = answer
        self._mode = mode
        self._settings = settings
        self._alarms = alarms
        self._clock = clock
        self._n_seen = 0
        self._in_tool_call = False
        self._has_begun = False
        self._is_over = False
        self._cancellation = Cancellation()
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._triggered_at = 0.0
        self._sentence: SentenceFinish | None = None
        self._sentence_until: float | None = None
        self._alarm: Alarm | None = None
        self._held: list[EngineEvent] = []
        self._n_sent = 0
        self._ask = ask
        self._end_question = end_question
        self._may_replace = may_replace
        self._hides_first_word = hides_first_word
        self._to_ask: Reason | None = None
        self._question: Question | None = None
        self._expiry: Alarm | None = None
        self._is_refused = False
        self._n_agreed: int | None = None
        """Characters of the held text that were there when the user agreed; what comes later does
        not leave. None: the user was not asked, or has not agreed."""
        self._pump: Pump | None = None
        self.deferred: Reason | None = None
        """A reason that has to wait for the next turn."""
        self.finished: Finished | None = None
        """The engine's own end, once there."""
        self.watch = make_watch(self.trigger)

    def hand_over(self) -> None:
        """The user wants another writer to continue."""
        self.watch.ask()

    def trigger(self, reason: Reason) -> None:
        """Another writer is to continue: end now, or with the sentence."""
        with self._lock:
            if self._reason is not None:
                return
            # Before the first word there is neither a sentence to end nor a turn to wait for.
            waits = not reason.is_hard and reason.keep_chars is None and self._has_begun
            # Half a tool call can neither be continued by another writer nor taken back.
            if self._in_tool_call or (waits and self._mode == "at_turn"):
                self.deferred = reason
                self.watch.defer()
                return
            if self._ask is not None:
                if self._to_ask is None and (reason.code == "user" or not self._is_refused):
                    self._to_ask = reason
                    self._wake()
                return
        self._stop_for(reason)

    def _stop_for(self, reason: Reason, *, at_once: bool = False) -> None:
        """End now, or with the sentence. *at_once*: the user has agreed to what is there now."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason, self._triggered_at = reason, self._clock()
            waits = not reason.is_hard and reason.keep_chars is None and self._has_begun
            if waits and self._mode == "finish_sentence" and not at_once:
                self._sentence_until = self._triggered_at + self._settings.grace_s
                self._alarms.at(self._sentence_until, self._cancellation.cancel)
                return
        self._cancellation.cancel()

    def _wake(self) -> None:
        if self._pump is not None:
            self._pump.wake()

    def worker_died(self) -> None:
        """Hand over unless the engine soon continues by itself in a new process."""
        n_seen = self._n_seen

        def look_again() -> None:
            if self._n_seen == n_seen:
                self.trigger(Reason(code="crash", is_hard=True))

        self._alarms.after(self._settings.crash_patience_s, look_again)

    def stop(self) -> None:
        """End soon, without a reason: the rest is not wanted."""
        self._cancellation.cancel()

    def held(self) -> tuple[EngineEvent, ...]:
        """What was written but not sent, once the engine has failed."""
        return self._shown(self._held)

    def events(self, cancellation: Cancellation) -> Generator[StreamEvent, None, WriterEnd]:
        """Yield what the client may see, all but the end. Raises what the engine raises."""
        self._arm()
        try:
            with (
                cancellation.subscribed(self._cancellation.cancel),
                closing(self._source()) as events,
            ):
                for event in events:
                    if event is None:
                        yield from self._look_at_question()
                    elif isinstance(event, Finished):
                        return (yield from self._end(event))
                    else:
                        yield from self._take(event)
            raise AssertionError("an engine's stream ends with Finished")
        finally:
            with self._lock:
                self._is_over = True
                for alarm in (self._alarm, self._expiry):
                    if alarm is not None:
                        alarm.cancel()

    def _source(self) -> Generator[EngineEvent] | Generator[EngineEvent | None]:
        """The engine's events; None when something else is to be looked at."""
        if self._ask is None:
            return self._engine.stream(self._request, self._cancellation)
        return self._pumped()

    def _pumped(self) -> Generator[EngineEvent | None]:
        def stream(cancellation: Cancellation) -> Generator[EngineEvent]:
            return self._engine.stream(self._request, cancellation)

        with Pump(stream, self._cancellation) as self._pump:
            if self._to_ask is not None:
                yield None
            while True:
                yield self._pump.next(None)

    # --- the user ---------------------------------------------------------------------------

    @property
    def is_asking(self) -> bool:
        """Whether the user is asked about a handoff, so that no other reason can open a question;
        any thread may look."""
        return self._to_ask is not None

    def _look_at_question(self) -> Generator[StreamEvent]:
        """Ask the user, or take the reply."""
        reason, question = self._to_ask, self._question
        if reason is None or self._ask is None:
            return
        if question is None:
            found = yield from self._ask(reason)
            if isinstance(found, Question):
                self._question = found
                self._expiry = self._alarms.after(found.asked.timeout_s, found.expire)
                found.decided.subscribe(self._wake)
                return
        elif question.decided.cancelled:
            found = question.granted is True
            yield from self._end_question()
        else:
            return
        if not found:
            # Without a question nobody can take over, or may for this reason.
            self._is_refused |= question is not None
            self.watch.ignore(reason.code if question is None else None)
            self._to_ask = self._question = None
            self._arm()
            yield from self._release()
        elif self._in_tool_call:
            self.deferred = reason
            self.watch.defer()
        else:
            if question is not None:
                self._n_agreed = len(text_of(self._held))
            self._stop_for(reason, at_once=question is not None)

    # --- silence ----------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set an alarm for when silence becomes a reason; nothing is done for each token."""
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
        if self._sentence_until is not None:
            yield from self._take_to_sentence_end(event, self._sentence_until)
        elif (
            self._reason is not None
            or verdict == "hold"
            or self._holds_while_asking
            or self._is_first_word(event)
        ):
            self._held.append(event)
        else:
            if self._held:
                yield from self._release()
            yield self._passed(event)

    @property
    def _holds_while_asking(self) -> bool:
        reason = self._to_ask
        return reason is not None and is_unwanted(reason) and not self._may_replace

    def _is_first_word(self, event: EngineEvent) -> bool:
        """Whether *event* belongs to a beginning that another writer could not continue."""
        if self._hides_first_word:
            is_text = isinstance(event, Delta) and not is_worth_keeping(
                text_of([*self._held, event]).rstrip()
            )
            self._hides_first_word = is_text or not isinstance(event, Delta | ToolCallDelta)
            return is_text
        return False

    def _take_to_sentence_end(self, event: EngineEvent, until: float) -> Generator[EngineEvent]:
        if self._cancellation.cancelled or not isinstance(event, Delta):
            self._held.append(event)
            return
        yield from self._release()
        if self._sentence is None:
            self._sentence = SentenceFinish(
                self._answer.text, until=until, max_tokens=self._settings.grace_tokens
            )
        text = self._sentence.feed(event.text, len(event.token_ids), self._clock())
        head, tail = cut(event, len(text))
        if tail.text:
            self._held.append(tail)
        else:
            head = event
        if head.text:
            yield self._passed(head)
        if self._sentence.is_done:
            self._cancellation.cancel()

    def _release(self) -> Generator[EngineEvent]:
        held, self._held = self._held, []
        for event in held:
            yield self._passed(event)

    def _passed(self, event: EngineEvent) -> EngineEvent:
        """Note that *event* goes to the client."""
        if isinstance(event, Delta):
            self._n_sent += len(event.text)
            self._has_begun |= bool(event.text)
        elif isinstance(event, ToolCallDelta):
            self._in_tool_call = self._has_begun = True
        return with_logprobs(event, self._answer.request.logprobs)

    def _shown(self, events: list[EngineEvent]) -> tuple[EngineEvent, ...]:
        return tuple(with_logprobs(event, self._answer.request.logprobs) for event in events)

    # --- the end ----------------------------------------------------------------------------

    def _end(self, event: Finished) -> Generator[StreamEvent, None, WriterEnd]:
        self.finished = event
        with self._lock:
            reason = self._reason
        asked = self._to_ask
        found = self.watch.finished(event)
        if event.reason != "cancelled":
            # It ended by itself, possibly just as it was triggered.
            reason = found
            if asked is not None and is_unwanted(asked):
                reason = asked
            self._triggered_at = self._clock()
            if self._ask is not None and self._may_replace:
                yield from self._release()  # to be read while the user is asked
        if reason is None:
            yield from self._release()
            yield from self._end_question()
            return Complete(event)
        good = self._good_text(reason)
        withheld = _open_end(good, self._answer.request.stop)
        sent, rest = split(
            self._held, len(good) - len(withheld), keeps_rest=reason.keep_chars is None
        )
        for held in sent:
            yield self._passed(held)
        n_good = self._n_sent if reason.keep_chars is None else reason.keep_chars
        return Stopped(
            reason=reason,
            at=self._triggered_at,
            bad_chars=max(self._n_sent - n_good, 0),
            withheld=withheld,
            held=self._shown(rest),
            local_end=None if event.reason == "cancelled" else event,
        )

    def _good_text(self, reason: Reason) -> str:
        """The good part of the text that was held back."""
        if self._hides_first_word or (self._sentence is not None and self._sentence.is_done):
            return ""
        text = text_of(self._held)[: self._n_agreed]
        if reason.keep_chars is None:
            return text
        return text[: max(reason.keep_chars - self._n_sent, 0)]


def _open_end(text: str, stops: tuple[str, ...]) -> str:
    """The end of *text* that may begin a stop string."""
    answer = AnswerText(stops)
    answer.feed(text)
    return text[answer.n_sent :]
