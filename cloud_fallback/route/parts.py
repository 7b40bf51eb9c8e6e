"""What all answers of a device share on their way between local and cloud writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.policy.affinity import Affinity
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.sensors import Sensors
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.consent import ConsentDesk
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.breaker import Breakers
from spillover.cloud_fallback.route.gate import Gate
from spillover.cloud_fallback.route.local_leg import LocalLeg
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.journal import HandoffJournal
from spillover.runtime.alarms import Alarms
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import WriterId

WARM_EVERY_S = 20.0


class Trust:
    """What stands between an answer and the network."""

    def __init__(
        self, *, consent: ConsentDesk, redactor: Redactor, budget: Budget, breakers: Breakers
    ) -> None:
        self.consent = consent
        self.redactor = redactor
        self.budget = budget
        self.breakers = breakers


class Parts:
    """Owned by the router. Methods may be called from any thread."""

    def __init__(
        self,
        local: TextEngine,
        clouds: tuple[CloudEngine, ...],
        *,
        settings: RouteSettings,
        policy: PolicySettings,
        trust: Trust,
        sensors: Sensors,
        journal: HandoffJournal,
        alarms: Alarms,
        http: Http,
        data_dir: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.local = local
        self.clouds = clouds
        self.settings = settings
        self.policy_settings = policy
        self.trust = trust
        self.sensors = sensors
        self.journal = journal
        self.alarms = alarms
        self.clock = clock
        self._http = http
        self._data_dir = data_dir
        self._policy: LocalPolicy | None = None
        self._lock = threading.Lock()
        self._affinity = Affinity(policy)
        self._legs: list[LocalLeg] = []
        self._warmed_at = float("-inf")
        self._gates = {engine.name: Gate(clock) for engine in clouds}

    @property
    def local_writer(self) -> WriterId:
        return WriterId(origin="local", model=self.local.name)

    def policy(self) -> LocalPolicy | None:
        """The policies of the local model; None while it is loading."""
        with self._lock:
            if self._policy is None:
                try:
                    card = self.local.card
                except SpilloverError:
                    return None
                self._policy = LocalPolicy(self.policy_settings, card, data_dir=self._data_dir)
            return self._policy

    def gate(self, provider: str) -> Gate:
        """Where requests to *provider* wait for their turn."""
        return self._gates[provider]

    # --- conversations ----------------------------------------------------------------------

    def home(self, conversation: bytes) -> str | None:
        """The provider that *conversation* stays with; None: it is at home here."""
        with self._lock:
            return self._affinity.provider(conversation, self.clock())

    def handed_over(self, conversation: bytes, provider: str) -> None:
        with self._lock:
            self._affinity.handed_over(conversation, provider, self.clock())

    def returned(self, conversation: bytes) -> None:
        with self._lock:
            self._affinity.returned(conversation, self.clock())

    # --- local legs -------------------------------------------------------------------------

    @contextmanager
    def watching(self, leg: LocalLeg, *, senses: bool) -> Generator[None]:
        """Tell *leg* of the worker's death while the block runs, and of the sensors' readings
        if it *senses*."""
        with self._lock:
            self._legs.append(leg)
        try:
            with self.sensors.watching(leg.watch) if senses else nullcontext():
                yield
        finally:
            with self._lock:
                self._legs.remove(leg)

    def worker_died(self) -> None:
        """Legs that do not go on soon by themselves are handed over."""
        if not self.policy_settings.is_on("crash"):
            return
        with self._lock:
            legs = list(self._legs)
        for leg in legs:
            leg.worker_died(self.settings.crash_patience_s, Reason(code="crash", is_hard=True))

    # --- connections ------------------------------------------------------------------------

    def warm_first(self) -> None:
        """Open a connection to the first provider, unless that was done a moment ago."""
        now = self.clock()
        with self._lock:
            if not self.clouds or now - self._warmed_at < WARM_EVERY_S:
                return
            self._warmed_at = now
        threading.Thread(target=self.clouds[0].warm, name="warm", daemon=True).start()

    def close(self) -> None:
        """Nobody waits for consent any more; connections, threads and the ledger are closed."""
        self.trust.consent.close()
        self.sensors.close()
        self.alarms.close()
        self._http.close()
        if self._policy is not None:
            self._policy.close()
        self.trust.budget.close()
