"""Watches one local leg of one answer, and says when another writer should go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from spillover.cloud_fallback.policy import after, before, during
from spillover.cloud_fallback.policy.confidence.doubt import Doubt
from spillover.cloud_fallback.policy.confidence.judge import Judge, stride
from spillover.cloud_fallback.policy.device_reading import (
    DevicePressure,
    DeviceReading,
    is_throttled,
)
from spillover.cloud_fallback.policy.hold import Hold
from spillover.cloud_fallback.policy.local_model import LocalModel
from spillover.cloud_fallback.policy.reason import Reason, Verdict
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.cloud_fallback.policy.silence import (
    shortest_wait,
    silent_too_long,
    silent_until,
)
from spillover.runtime.engine import EngineStatus
from spillover.runtime.events import Delta, EngineEvent, Finished, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import GenerationRequest

N_TOP_LOGPROBS = 2
"""The runner-up is enough for the margin and for group confidence."""
_SLOW_EVERY, _SLOW_DWELL = 8, 2


def logprobs_wanted(request: GenerationRequest, settings: PolicySettings) -> int | None:
    """What a watched leg's request asks for as *logprobs*."""
    if not settings.is_on("low_confidence"):
        return request.logprobs
    return max(request.logprobs or 0, N_TOP_LOGPROBS)


class Watch:
    """The thread that iterates the local engine calls before(), see() and finished(). sense(),
    ask(), deadline() and on_silence() may be called from any thread; the first reason that
    sense() or ask() finds is given to *on_trigger*, once, in that thread. What the other methods
    find they return. After the first reason nothing else is decided.

    Quality is judged only where there is one choice.
    """

    def __init__(
        self,
        settings: PolicySettings,
        request: GenerationRequest,
        *,
        clock: Callable[[], float],
        on_trigger: Callable[[Reason], None],
        local: LocalModel | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._settings = settings
        self._request = request
        self._clock = clock
        self._on_trigger = on_trigger
        self._local = local or LocalModel()
        self._judge = judge or Judge(settings, self._local.calibration)
        self._doubt = Doubt(self._judge.limits())
        self._hold = Hold(settings)
        self._pressure = DevicePressure(settings)
        self._n_slow = 0
        self._last_p_wrong: float | None = None
        self._next_look = self._next_slow = 0
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._ended = False
        self._outlook: before.Outlook | None = None
        self._only_hard = False
        self.signals = Signals(request, settings, clock())
        self._hard = tuple(p for p in during.HARD if settings.is_on(during.CODES[p]))

    @property
    def reason(self) -> Reason | None:
        """Why the answer is handed over; None: it is not."""
        return self._reason

    @property
    def score(self) -> float | None:
        """How doubtful the answer was: the highest P(wrong) of two windows in a row, or of a
        short answer as a whole. None: not known."""
        return self._last_p_wrong if self._doubt.highest is None else self._doubt.highest

    def before(
        self,
        status: EngineStatus,
        n_prompt_tokens: int | None,
        device: DeviceReading | None,
        *,
        wanted: bool = False,
    ) -> Reason | None:
        """Why the answer should not even begin here; *wanted*: the user asked for that."""
        if wanted and self._settings.is_on("user"):
            return self._decide(Reason(code="user", is_hard=True))
        outlook = self._outlook = before.Outlook(
            request=self._request,
            status=status,
            n_prompt_tokens=n_prompt_tokens,
            device=device,
            local=self._local,
            settings=self._settings,
        )
        return self._decide(before.first_reason(outlook))

    def see(self, event: EngineEvent) -> Verdict:
        """Take the next event of the engine. The verdict is on the event's text: send it and all
        that was kept back, keep it back, or hand over (then see *reason*)."""
        signals = self.signals
        start_char, n_before = signals.n_chars, signals.n_tokens
        now = self._clock()
        signals.see(event, now)
        if self._reason is not None:
            return "handoff"
        if not isinstance(event, Delta | ReasoningDelta | ToolCallDelta):
            return "pass" if self._decide(self._no_room()) is None else "handoff"
        found = (self._hard_reason() if self._request.n == 1 else None) or self._soft_reason()
        if self._decide(found) is not None:
            return "handoff"
        holds = self._hold.step(
            self._in_doubt(),
            start_char=start_char,
            n_tokens=signals.n_tokens - n_before,
            now=now,
        )
        return "hold" if holds else "pass"

    def _no_room(self) -> Reason | None:
        """What was decided before the start without the prompt's length, now that it is known."""
        outlook, n = self._outlook, self.signals.n_prompt_tokens
        if outlook is None or n is None:
            return None
        self._outlook = None
        outlook = msgspec.structs.replace(outlook, n_prompt_tokens=n)
        return before.first_reason(outlook, before.WITH_PROMPT)

    def _hard_reason(self) -> Reason | None:
        for policy in self._hard:
            reason = policy(self.signals, self._settings)
            if reason is not None:
                return reason
        return None

    def _soft_reason(self) -> Reason | None:
        if self._only_hard:
            return None
        n = self.signals.n_tokens
        reason = None
        if n >= self._next_slow:
            self._next_slow = n + _SLOW_EVERY
            reason = self._slow_reason()
        if n >= self._next_look and self._request.n == 1:
            self._next_look = n + stride(n)
            reason = self._confidence_reason() or reason
        return None if reason is None or self._in_tail() else reason

    def _slow_reason(self) -> Reason | None:
        reason = during.decodes_slowly(self.signals, self._settings)
        self._n_slow = 0 if reason is None else self._n_slow + 1
        return reason if self._n_slow >= _SLOW_DWELL and self._settings.is_on("slow") else None

    def _confidence_reason(self) -> Reason | None:
        if not self._settings.is_on("low_confidence"):
            return None
        p_wrong = self._last_p_wrong = self._judge.p_wrong(self.signals)
        if self._doubt.step(p_wrong) != "lost" or p_wrong is None:
            return None
        if self.signals.track.n < self._settings.least_tokens:
            return None
        return self._judge.reason(p_wrong, self._doubt.limits, self._hold.start_char)

    def _in_doubt(self) -> bool:
        signals = self.signals
        return (
            (self._doubt.mood != "calm" and not self._only_hard)
            or (signals.leaks.is_open and self._settings.is_on("template_leak"))
            or (signals.refusals.may_come and self._settings.is_on("refusal"))
        )

    def _in_tail(self) -> bool:
        """Whether the answer is so near its end that only hard reasons count."""
        most = self._request.max_tokens
        return most is not None and self.signals.n_tokens >= most * (
            1.0 - self._settings.no_handoff_tail
        )

    def sense(self, reading: DeviceReading) -> None:
        """Take a reading of the sensors."""
        if self._only_hard:
            return
        reason = self._pressure.step(reading) or self._throttled(reading)
        if reason is not None and not self._in_tail():
            self._trigger(reason)

    def _throttled(self, reading: DeviceReading) -> Reason | None:
        settings, signals = self._settings, self.signals
        rate, best = signals.rate, signals.best_rate
        if rate is None or rate > settings.slowed_to * best or not settings.is_on("throttled"):
            return None
        if not is_throttled(reading, settings):
            return None
        found = {"tokens_per_s": rate, "best_tokens_per_s": best}
        return Reason(code="throttled", signals=found)

    def ask(self) -> None:
        """The user asks for the handoff of this answer now."""
        if self._settings.is_on("user"):
            self._trigger(Reason(code="user", is_hard=True))

    def deadline(self) -> float | None:
        """Clock time at which silence itself becomes a reason; None: never."""
        if self._reason is not None or self._ended:
            return None
        return silent_until(self.signals, self._settings)

    def next_look(self) -> float | None:
        """Clock time at which on_silence() is to be called; None: no more. Not after deadline(),
        and soon enough that no wait that begins before then is noticed too late."""
        shortest = shortest_wait(self._settings)
        if shortest is None or self._only_hard or self._reason is not None or self._ended:
            return None
        soon, deadline = self._clock() + shortest, self.deadline()
        return soon if deadline is None else min(soon, deadline)

    def defer(self) -> None:
        """What was found can wait: from now on only reasons count that cannot."""
        with self._lock:
            if not self._ended:
                self._reason, self._only_hard = None, True

    def on_silence(self) -> Reason | None:
        """Call this when next_look() has come."""
        if self._only_hard:
            return None
        return self._decide(silent_too_long(self.signals, self._settings, self._clock()))

    def finished(self, event: Finished) -> Reason | None:
        """Why an answer that ended by itself should go on elsewhere, or be written anew. After
        this no trigger comes any more; one that came just before is overruled by the end."""
        with self._lock:
            self._ended = True
            if event.reason == "cancelled":
                return self._reason
            self._reason = None
        reason = after.first_reason(self.signals, self._settings, event, self._request)
        if reason is None and self._request.n == 1:
            reason = self._short_answer()
        self._reason = reason
        return reason

    def _short_answer(self) -> Reason | None:
        """Low confidence in an answer that is over before two windows were, if none of it that
        is in doubt was sent."""
        settings = self._settings
        start = self._hold.start_char
        if start is None or not (
            settings.judges_short_answers and settings.is_on("low_confidence")
        ):
            return None
        p_wrong = self._last_p_wrong = self._judge.p_wrong(self.signals)
        if p_wrong is None or not p_wrong >= self._doubt.limits.enter:
            return None
        return self._judge.reason(p_wrong, self._doubt.limits, start)

    def _decide(self, reason: Reason | None) -> Reason | None:
        if reason is None:
            return None
        with self._lock:
            if self._reason is None and not self._ended:
                self._reason = reason
            return self._reason

    def _trigger(self, reason: Reason) -> None:
        with self._lock:
            if self._reason is not None or self._ended:
                return
            self._reason = reason
        self._on_trigger(reason)
