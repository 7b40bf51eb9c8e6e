"""Answers made by hand: events with the times at which they come."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import Reason, Verdict
from spillover.cloud_fallback.policy.sensors import DeviceReading
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.runtime.engine import EngineStatus
from spillover.runtime.events import (
    Delta,
    Finished,
    FinishReason,
    Prefilling,
    Queued,
    ReasoningDelta,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from spillover.runtime.request import GenerationRequest, Message

READY = EngineStatus(state="ready")


class FakeClock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


def asked(text: str = "Please tell me something nice.", **fields: object) -> GenerationRequest:
    """A request with one message of the user."""
    message = Message(role="user", content=text)
    return GenerationRequest(messages=(message,), **fields)  # type: ignore[arg-type]


def token_id(text: str) -> int:
    """The same id for the same text."""
    return zlib.crc32(text.encode()) % 100_000


def token(text: str, logprob: float = -0.1, entropy: float | None = None) -> Delta:
    """A delta of one token."""
    runner_up = min(-2.5 - logprob, logprob)
    lp = TokenLogprob(
        token_id=token_id(text),
        token=text.encode(),
        logprob=logprob,
        entropy=-2 * logprob if entropy is None else entropy,
        top=(
            TopLogprob(token_id=token_id(text), token=text.encode(), logprob=logprob),
            TopLogprob(token_id=1, token=b"x", logprob=runner_up),
        ),
    )
    return Delta(text=text, token_ids=(token_id(text),), logprobs=(lp,))


def words(text: str, logprob: float = -0.1) -> list[Delta]:
    """One token for each word, with the space before it."""
    first, *others = text.split(" ")
    return [token(w, logprob) for w in [first, *(f" {other}" for other in others)]]


def prose(n: int, start: int = 0, logprob: float = -0.1) -> list[Delta]:
    """*n* words, none twice."""
    return [token(f" word{_letters(i)}", logprob) for i in range(start, start + n)]


def _letters(i: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(i))


def finished(
    reason: FinishReason = "stop", *, n: int = 10, n_prompt: int = 5, choice: int = 0
) -> Finished:
    return Finished(
        choice=choice,
        reason=reason,
        usage=Usage(prompt_tokens=n_prompt, cached_tokens=0, completion_tokens=n),
        timings=Timings(queue_ms=0, prefill_ms=0, decode_ms=0),
    )


UNSURE = Calibration(
    model="",
    fingerprint="",
    features=("mean_16",),
    means=(-2.0,),
    scales=(1.0,),
    weights=(-4.0,),
    bias=0.0,
)
"""P(wrong) is one half where the mean logprob of the last 16 tokens is -2."""


class Leg:
    """A watch with its clock and what it triggered. Its calibration is UNSURE."""

    def __init__(
        self,
        request: GenerationRequest | None = None,
        settings: PolicySettings | None = None,
        **more: object,
    ) -> None:
        more.setdefault("local", LocalModel(calibration=UNSURE))
        self.clock = FakeClock()
        self.triggers: list[Reason] = []
        self.watch = Watch(
            settings or PolicySettings(),
            request or asked(),
            clock=self.clock,
            on_trigger=self.triggers.append,
            **more,  # type: ignore[arg-type]
        )

    def begin(self) -> None:
        """Out of the queue, prompt read."""
        self.watch.see(Queued(position=0, n_prompt_tokens=5))
        self.watch.see(Prefilling(n_read=5, n_cached=0, n_prompt_tokens=5))

    def before(
        self,
        status: EngineStatus = READY,
        n_prompt_tokens: int | None = 5,
        device: DeviceReading | None = None,
    ) -> Reason | None:
        """Why the answer does not begin here, be it once the prompt's length is known."""
        reason = self.watch.before(status, device)
        if reason is None and n_prompt_tokens is not None:
            self.watch.see(Queued(position=0, n_prompt_tokens=n_prompt_tokens))
        return self.watch.reason

    def feed(
        self,
        deltas: Iterable[Delta | ReasoningDelta],
        *,
        step_s: float = 0.02,
        until: Callable[[Verdict], bool] = lambda verdict: verdict == "handoff",
    ) -> list[Verdict]:
        """The verdicts on *deltas*, up to the first that *until* is true for."""
        verdicts: list[Verdict] = []
        for delta in deltas:
            self.clock.pass_s(step_s)
            verdicts.append(self.watch.see(delta))
            if until(verdicts[-1]):
                break
        return verdicts
