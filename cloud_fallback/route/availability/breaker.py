"""Circuit breakers: no answer of the device goes to a failing provider.

| error | what happens |
|---|---|
| RateLimited | this provider cools for as long as it asked for |
| Overloaded | this provider cools for a moment, longer each time |
| AuthFailed, BillingFailed | this provider cools for ten minutes, longer each time |
| NetworkFailed | this provider cools; **all** cloud providers wait for one probe to succeed |
| Truncated, other ProviderErrors | the third in a row makes this provider cool |
| ProviderRefused, ContentBlocked | nothing: the request was at fault |
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
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
from spillover.cloud_fallback.route.availability.circuit import Circuit, Cooling, OpenReason, Pass
from spillover.runtime.cancellation import Cancellation

Clock: TypeAlias = Callable[[], float]

LONGEST_TURN_S = 10.0
"""The longest wait for a turn at a provider whose state is unknown."""

RATE_LIMITED = Cooling(reason="rate_limited", first_s=5, longest_s=300)
OVERLOADED = Cooling(reason="overloaded", first_s=1, longest_s=60)
REFUSED_KEY = Cooling(reason="auth", first_s=600, longest_s=3600)
EMPTY_ACCOUNT = Cooling(reason="billing", first_s=600, longest_s=3600)
BROKEN = Cooling(reason="truncated", first_s=1, longest_s=60, after=3)
UNREACHED = Cooling(reason="network", first_s=2, longest_s=60)
"""For the provider that was not reached. Longer than OFFLINE, so that another provider, if any,
probes the network next."""
OFFLINE = Cooling(reason="network", first_s=0.5, longest_s=30, probe_at_once=True)
"""For all cloud providers. Possibly only one is out of reach, so another one is tried at once."""

_IN_WORDS: dict[OpenReason, str] = {
    "rate_limited": "it takes no more requests for now",
    "overloaded": "it was overloaded",
    "auth": "it refused the key",
    "billing": "no money or quota is left there",
    "network": "it could not be reached, or no provider could",
    "truncated": "its last answers broke off",
    "probing": "another answer is finding out whether it works",
}


class CircuitOpen(Struct, frozen=True, kw_only=True):
    """*provider* must not be asked for *retry_after_s*."""

    provider: str
    reason: OpenReason
    retry_after_s: float
    is_crowd: bool = False
    """The provider has not failed: wait for a turn."""

    @property
    def message(self) -> str:
        why = _IN_WORDS[self.reason]
        return f"it is not asked for another {math.ceil(self.retry_after_s)} s, because {why}"

    def error(self) -> Overloaded:
        error = Overloaded(self.provider, self.message, self.retry_after_s)
        error.code = self.reason
        return error


class CircuitBreakers:
    """One circuit per provider and one for the network. Any thread may use them; only wait_turn()
    blocks.

    The network's circuit does not apply to providers in *local_network*.
    """

    def __init__(
        self, *, local_network: Collection[str] = (), clock: Clock = time.monotonic
    ) -> None:
        self._changed = threading.Condition()
        self._clock = clock
        self._local_network = frozenset(local_network)
        self._providers: dict[str, Circuit] = {}
        self._network = Circuit(n_probes=None)

    def acquire(self, provider: str) -> Permit | CircuitOpen:
        """The right to send one request to *provider*, or why it must not be sent now."""
        with self._changed:
            return self._refusal(provider) or self._permit(provider)

    def wait_turn(self, provider: str, cancellation: Cancellation) -> Permit | CircuitOpen:
        """Like acquire(), but wait while others find out whether *provider* answers: at most
        LONGEST_TURN_S, and only until *cancellation*."""

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        def is_over() -> bool:
            refusal = self._refusal(provider)
            return refusal is None or not refusal.is_crowd or cancellation.cancelled

        with cancellation.subscribed(wake), self._changed:
            self._changed.wait_for(is_over, LONGEST_TURN_S)
            return self._refusal(provider) or self._permit(provider)

    def refusal(self, provider: str) -> CircuitOpen | None:
        """Why *provider* must not be asked now."""
        with self._changed:
            return self._refusal(provider)

    def blocked(self) -> list[CircuitOpen]:
        """The providers that must not be asked now."""
        with self._changed:
            refusals = map(self._refusal, list(self._providers))
            return [refusal for refusal in refusals if refusal is not None]

    def _circuits(self, provider: str) -> list[Circuit]:
        own = self._providers.setdefault(provider, Circuit())
        return [own] if provider in self._local_network else [own, self._network]

    def _refusal(self, provider: str) -> CircuitOpen | None:
        now = self._clock()
        blocks = [b for circuit in self._circuits(provider) if (b := circuit.blocked(now))]
        if not blocks:
            return None
        longest = max(blocks, key=lambda block: block.wait_s)
        return CircuitOpen(
            provider=provider,
            reason=longest.reason,
            retry_after_s=longest.wait_s,
            is_crowd=all(block.is_crowd for block in blocks),
        )

    def _permit(self, provider: str) -> Permit:
        now = self._clock()
        passes = tuple(circuit.admit(now) for circuit in self._circuits(provider))
        return Permit(self, provider, passes)

    def report(self, permit: Permit, verdict: Callable[[Circuit, Pass, float], None]) -> None:
        """Tell the circuits of *permit* how its request went."""
        with self._changed:
            circuits = zip(self._circuits(permit.provider), permit.passes, strict=True)
            for circuit, granted in circuits:
                verdict(circuit, granted, self._clock())
            self._changed.notify_all()

    def report_failure(self, permit: Permit, error: ProviderError) -> None:
        """Tell the circuits of *permit* that its request ended with *error*."""
        with self._changed:
            now, (own, *network) = self._clock(), self._circuits(permit.provider)
            _tell(own, permit.passes[0], error, now)
            for circuit, granted in zip(network, permit.passes[1:], strict=True):
                if isinstance(error, NetworkFailed):
                    circuit.failed(granted, OFFLINE, now)
                else:
                    circuit.answered(granted, now)
            self._changed.notify_all()


class Permit:
    """The right to send one request, and the place to report how it went. As a context manager, it
    is released without a verdict if nothing was reported, as after a cancellation."""

    def __init__(self, breakers: CircuitBreakers, provider: str, passes: tuple[Pass, ...]) -> None:
        self.provider = provider
        self.passes = passes
        self._breakers = breakers
        self._is_over = False

    def answered(self) -> None:
        """The answer has begun: others may send too. success() or failure() follows."""
        if not self._is_over:
            self._breakers.report(self, Circuit.answered)

    def success(self) -> None:
        """The answer is complete."""
        if self._ends():
            self._breakers.report(self, Circuit.succeeded)

    def failure(self, error: ProviderError) -> None:
        """The request ended with *error*."""
        if self._ends():
            self._breakers.report_failure(self, error)

    def release(self) -> None:
        """The request ended or was never sent, which says nothing about the provider."""
        if self._ends():
            self._breakers.report(self, lambda circuit, granted, _now: circuit.released(granted))

    def _ends(self) -> bool:
        was_over, self._is_over = self._is_over, True
        return not was_over

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
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
            circuit.answered(granted, now)
        case _:
            circuit.failed(granted, BROKEN, now)
