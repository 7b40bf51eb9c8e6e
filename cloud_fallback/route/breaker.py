"""Keeps requests away from providers that fail, for all answers of the device together.

| error | what happens |
|---|---|
| RateLimited | this provider cools for as long as it asked for |
| Overloaded | this provider cools for a moment, longer each time |
| AuthFailed, BillingFailed | this provider cools for ten minutes, longer each time |
| NetworkFailed | this provider cools; **all** cloud providers wait for one probe to succeed |
| Truncated, other ProviderErrors | the third in a row makes this provider cool |
| ProviderRefused, ContentBlocked | nothing: the request was at fault, the provider is well |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BillingFailed,
    ContentBlocked,
    NetworkFailed,
    Overloaded,
    ProviderError,
    ProviderRefused,
    RateLimited,
)
from spillover.cloud_fallback.route.circuit import Blocked, Circuit, Cooling, OpenReason, Pass

Clock: TypeAlias = Callable[[], float]

RATE_LIMITED = Cooling(reason="rate_limited", first_s=5, longest_s=300)
OVERLOADED = Cooling(reason="overloaded", first_s=1, longest_s=60)
REFUSED_KEY = Cooling(reason="auth", first_s=600, longest_s=3600)
EMPTY_ACCOUNT = Cooling(reason="billing", first_s=600, longest_s=3600)
BROKEN = Cooling(reason="truncated", first_s=1, longest_s=60, after=3)
UNREACHED = Cooling(reason="network", first_s=2, longest_s=60)
"""For the provider that was not reached; longer than that of the network, so that the next probe
of the network is another provider's where there is one."""
OFFLINE = Cooling(reason="network", first_s=0.5, longest_s=30, probe_at_once=True)
"""For all cloud providers: one that breaks may be alone in it, so another is tried at once."""


class CircuitOpen(Struct, frozen=True, kw_only=True):
    """*provider* must not be asked for *retry_after_s*."""

    provider: str
    reason: OpenReason
    retry_after_s: float


class Breakers:
    """One circuit for each provider and one for the network. May be called from any thread;
    never waits.

    Providers in *local_network* are not behind the network's circuit.
    """

    def __init__(
        self, *, local_network: Collection[str] = (), clock: Clock = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._local_network = frozenset(local_network)
        self._providers: dict[str, Circuit] = {}
        self._network = Circuit()

    def acquire(self, provider: str) -> Permit | CircuitOpen:
        """The right to send *provider* one request, or why not now."""
        with self._lock:
            now, circuits = self._clock(), self._circuits(provider)
            blocks = [block for circuit in circuits if (block := circuit.blocked(now))]
            if blocks:
                return _refusal(provider, blocks)
            return Permit(self, provider, tuple(circuit.admit(now) for circuit in circuits))

    def blocked(self) -> list[CircuitOpen]:
        """The providers that may not be asked now, for metrics and `doctor`."""
        with self._lock:
            now = self._clock()
            return [
                _refusal(name, blocks)
                for name in self._providers
                if (blocks := [b for c in self._circuits(name) if (b := c.blocked(now))])
            ]

    def _circuits(self, provider: str) -> list[Circuit]:
        own = self._providers.setdefault(provider, Circuit())
        return [own] if provider in self._local_network else [own, self._network]

    def _report(self, permit: Permit, verdict: Callable[[Circuit, Pass], None]) -> None:
        with self._lock:
            for circuit, granted in zip(
                self._circuits(permit.provider), permit.passes, strict=True
            ):
                verdict(circuit, granted)

    def _fail(self, permit: Permit, error: ProviderError) -> None:
        with self._lock:
            now, (own, *network) = self._clock(), self._circuits(permit.provider)
            _tell(own, permit.passes[0], error, now)
            for circuit, granted in zip(network, permit.passes[1:], strict=True):
                if isinstance(error, NetworkFailed):
                    circuit.failed(granted, OFFLINE, now)
                else:
                    circuit.answered(granted)


class Permit:
    """The right to send one request. Report exactly how it went; as a context manager it reports
    "no verdict" when nothing else was said, as after a cancellation."""

    def __init__(self, breakers: Breakers, provider: str, passes: tuple[Pass, ...]) -> None:
        self.provider = provider
        self.passes = passes
        self._breakers = breakers
        self._is_over = False

    def answered(self) -> None:
        """The first of the answer came: others may send too. success or failure follows."""
        if not self._is_over:
            self._breakers._report(self, Circuit.answered)

    def success(self) -> None:
        """The answer came to its end."""
        if self._ends():
            self._breakers._report(self, Circuit.succeeded)

    def failure(self, error: ProviderError) -> None:
        """The request ended with *error*."""
        if self._ends():
            self._breakers._fail(self, error)

    def release(self) -> None:
        """The request ended, or was never sent, for reasons that say nothing of the provider."""
        if self._ends():
            self._breakers._report(self, Circuit.released)

    def _ends(self) -> bool:
        was_over, self._is_over = self._is_over, True
        return not was_over

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ProviderError):
            self.failure(error)
        self.release()


def _tell(circuit: Circuit, granted: Pass, error: ProviderError, now: float) -> None:
    match error:
        case RateLimited():
            circuit.failed(granted, RATE_LIMITED, now, error.retry_after_s)
        case Overloaded():
            circuit.failed(granted, OVERLOADED, now, error.retry_after_s)
        case AuthFailed():
            circuit.failed(granted, REFUSED_KEY, now)
        case BillingFailed():
            circuit.failed(granted, EMPTY_ACCOUNT, now)
        case NetworkFailed():
            circuit.failed(granted, UNREACHED, now)
        case ProviderRefused() | ContentBlocked():
            circuit.answered(granted)
        case _:
            circuit.failed(granted, BROKEN, now)


def _refusal(provider: str, blocks: list[Blocked]) -> CircuitOpen:
    longest = max(blocks, key=lambda block: block.wait_s)
    return CircuitOpen(provider=provider, reason=longest.reason, retry_after_s=longest.wait_s)
