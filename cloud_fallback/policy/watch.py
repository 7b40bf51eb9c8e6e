"""Watches one local leg of an answer, and decides when another writer should continue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import get_args

from msgspec.structs import replace

from spillover.cloud_fallback.policy.capacity import WAITS
from spillover.cloud_fallback.policy.doubt import Doubt, DoubtReading, tokens_to_next_window
from spillover.cloud_fallback.policy.handoff_rate import HandoffRate
from spillover.cloud_fallback.policy.observation import LocalModel, Observation
from spillover.cloud_fallback.policy.reason import (
    QUALITY,
    STRAIN,
    Reason,
    ReasonCode,
    Verdict,
)
from spillover.cloud_fallback.policy.rules import RuleSet
from spillover.cloud_fallback.policy.sensors import DeviceReading
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.runtime.engine import EngineStatus
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.request import GenerationRequest

N_TOP_LOGPROBS = 2
"""The runner-up is enough for the margin and for group confidence."""
_WITH_TEXT = (Delta, ReasoningDelta, ToolCallDelta)


def logprobs_wanted(request: GenerationRequest, settings: PolicySettings) -> int | None:
    """The value of *logprobs* for the request of a watched leg."""
    if not settings.is_on("low_confidence"):
        return request.logprobs
    return max(request.logprobs or 0, N_TOP_LOGPROBS)


class Watch:
    """The thread that iterates the local engine calls before(), see() and finished(); any thread
    may call the other methods.

    sense() and ask() give the first reason they find to *on_trigger*, once, in the thread that
    called them; the other methods return theirs. After the first reason no other is given.
    *rate* gives the threshold of doubt, and says whether one more answer may be handed over; if
    not, the reasons that it limits count no longer.
    """

    def __init__(
        self,
        settings: PolicySettings,
        request: GenerationRequest,
        *,
        clock: Callable[[], float],
        on_trigger: Callable[[Reason], None],
        local: LocalModel | None = None,
        rate: HandoffRate | None = None,
    ) -> None:
        local = local or LocalModel()
        self._settings = settings
        self._clock = clock
        self._on_trigger = on_trigger
        self._judges = settings.is_on("low_confidence") and request.n == 1
        self._next_window = 0
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._ended = False
        self._hold = _Hold(settings)
        self._rules = RuleSet(settings, n_choices=request.n)
        if request.is_background:
            self._rules.drop(STRAIN)
        self.signals = Signals(request, settings, clock())
        self._rate = rate
        self.is_doubtful = False
        """A reason that the handoff rate limits was found, whether or not it allowed it."""
        self.took = False
        """The handoff rate has allowed this handoff."""
        self._doubt = Doubt(settings, local.calibration, rate.threshold() if rate else None)
        self._observation = Observation(
            request=request,
            settings=settings,
            local=local,
            signals=self.signals,
            doubt=self._doubt,
        )
        self._at_start: Observation | None = None

    @property
    def reason(self) -> Reason | None:
        """Why the answer is to be handed over; None: no reason."""
        return self._reason

    @property
    def score(self) -> float | None:
        """How doubtful the answer was: the highest P(wrong) of two windows in a row, or that of a
        short answer as a whole. None: unknown."""
        return self._doubt.score

    @property
    def doubt(self) -> DoubtReading | None:
        """What is known of the answer so far; None: it is not judged. Any thread may read it."""
        return self._doubt.reading if self._judges else None

    def before(self, status: EngineStatus, device: DeviceReading | None) -> Reason | None:
        """Why the answer should not begin here."""
        self._at_start = replace(self._observation, status=status, device=device or DeviceReading())
        return self._decide(self._rules.first_reason("before", self._at_start))

    def see(self, event: EngineEvent) -> Verdict:
        """Take the next event of the engine. The verdict is about its text: "pass" it and
        everything held back; "hold" it back; or "handoff" (see *reason*)."""
        signals = self.signals
        start_char, n_before = signals.n_chars, signals.n_tokens
        now = self._clock()
        signals.see(event, now)
        if self._reason is not None:
            return "handoff"
        if not isinstance(event, _WITH_TEXT):
            return "pass" if self._decide(self._accepted()) is None else "handoff"
        reason = self._rules.first_reason("text", self._observation)
        if reason is None and signals.n_tokens >= self._next_window:
            reason = self._at_window()
        if self._decide(reason) is not None:
            return "handoff"
        holds = self._hold.step(
            self._rules.may_come(self._observation),
            start_char=start_char,
            n_tokens=signals.n_tokens - n_before,
            now=now,
        )
        return "hold" if holds else "pass"

    def _accepted(self) -> Reason | None:
        """Take the length of the prompt, which the engine now knows."""
        observation = self._at_start
        if observation is None or self.signals.n_prompt_tokens is None:
            return None
        self._at_start = None
        return self._rules.first_reason("accepted", observation)

    def _at_window(self) -> Reason | None:
        n = self.signals.n_tokens
        self._next_window = n + tokens_to_next_window(n)
        if self._judges and not self._rules.hard_only:
            self._doubt.add_window(self.signals)
        observation = replace(self._observation, held_from=self._hold.start_char)
        return self._rules.first_reason("window", observation)

    def sense(self, reading: DeviceReading) -> None:
        """Take a reading of the sensors."""
        observation = replace(self._observation, device=reading)
        reason = self._rules.first_reason("sensors", observation)
        if reason is not None:
            self._trigger(reason)

    def ask(self) -> None:
        """The user requests the handoff of this answer now."""
        if self._settings.is_on("user"):
            self._trigger(Reason(code="user", is_hard=True))

    def deadline(self) -> float | None:
        """Clock time at which silence becomes a reason; None: never."""
        code, since = self.signals.wait
        if self._reason is not None or self._ended or code not in self._rules.codes("silent"):
            return None
        return since + WAITS[code](self._settings)

    def next_look(self) -> float | None:
        """Clock time at which to call on_silence(); None: never again. Not after deadline(), and
        early enough for every wait that begins before then."""
        watched = self._rules.codes("silent")
        limits = [limit(self._settings) for code, limit in WAITS.items() if code in watched]
        if not limits or self._reason is not None or self._ended:
            return None
        soon, deadline = self._clock() + min(limits), self.deadline()
        return soon if deadline is None else min(soon, deadline)

    def on_silence(self) -> Reason | None:
        """Call this when next_look() has come."""
        observation = replace(self._observation, now=self._clock())
        return self._decide(self._rules.first_reason("silent", observation))

    def defer(self) -> None:
        """The reason can wait: from now on only hard reasons count."""
        with self._lock:
            if not self._ended:
                self._reason, self._rules.hard_only = None, True

    def ignore(self, code: ReasonCode | None) -> None:
        """The reason does not count: from now on *code* is ignored, or (None) all of them. The
        user may still ask."""
        with self._lock:
            self._rules.drop(frozenset(get_args(ReasonCode) if code is None else (code,)))
            if not self._ended:
                self._reason = None

    def finished(self, event: Finished) -> Reason | None:
        """Why an answer that ended by itself should be continued or rewritten elsewhere. No trigger
        comes after this, and the end overrides one that has just come."""
        with self._lock:
            self._ended = True
            if event.reason == "cancelled":
                return self._reason
            self._reason = None
        held_from = self._hold.start_char
        if self._judges and held_from is not None:
            self._doubt.judge(self.signals)
        observation = replace(self._observation, end=event, held_from=held_from)
        reason = self._rules.first_reason("after", observation)
        self._reason = reason if reason is not None and self._allowed(reason) else None
        return self._reason

    def learn(self) -> None:
        """Tell the handoff rate how the leg went, once, after its end."""
        reason = self._reason
        if self._rate is not None and (reason is None or reason.code in QUALITY):
            self._rate.add(self.score, is_doubtful=self.is_doubtful, taken=self.took)

    def _decide(self, reason: Reason | None) -> Reason | None:
        if reason is None:
            return None
        with self._lock:
            if self._reason is None and not self._ended and self._allowed(reason):
                self._reason = reason
            return self._reason

    def _allowed(self, reason: Reason) -> bool:
        rate = self._rate
        if rate is None or reason.code not in rate.limited:
            return True
        self.is_doubtful = True
        self.took = rate.take()
        if not self.took:
            self._rules.drop(rate.limited)
        return self.took

    def _trigger(self, reason: Reason) -> None:
        with self._lock:
            if self._reason is not None or self._ended:
                return
            self._reason = reason
        self._on_trigger(reason)


class _Hold:
    """Holds text back while a reason may come, for a bounded number of tokens and time. After a
    stretch that reached a bound, no other begins until the doubt has ended."""

    def __init__(self, settings: PolicySettings) -> None:
        self._most_tokens = settings.hold_tokens
        self._most_s = settings.hold_s
        self._since = 0.0
        self._n_tokens = 0
        self._used_up = False
        self.start_char: int | None = None
        """Where the held-back text begins; None: no text is held."""

    def step(self, wanted: bool, *, start_char: int, n_tokens: int, now: float) -> bool:
        """Whether to hold back a piece of text that begins at *start_char*."""
        if not wanted:
            self._used_up = False
            self.start_char = None
            return False
        if self._used_up:
            return False
        if self.start_char is None:
            self._since, self._n_tokens, self.start_char = now, 0, start_char
        self._n_tokens += n_tokens
        if self._n_tokens > self._most_tokens or now - self._since > self._most_s:
            self._used_up = True
            self.start_char = None
        return self.start_char is not None
