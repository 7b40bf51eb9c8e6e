"""What all answers of a device share on their routes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from spillover.cloud_fallback.errors import KeptLocal
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.policy.affinity import Affinity
from spillover.cloud_fallback.policy.sensors import Sensors
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.consent import Consents
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.cloud_fallback.providers.build import build_engines
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.route.availability.breaker import CircuitBreakers
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.journal import HandoffJournal
from spillover.runtime.alarms import Alarms

WARM_EVERY_S = 20.0


@dataclass(kw_only=True)
class RouteResources:
    """Owned by the router. Methods may be called from any thread. What may differ between local
    models is in their LocalSide."""

    providers: tuple[CloudEngine, ...]
    """In the order in which they are asked."""
    settings: RouteSettings
    consents: Consents
    redactor: Redactor
    budget: Budget
    breakers: CircuitBreakers
    sensors: Sensors
    journal: HandoffJournal
    alarms: Alarms
    http: Http
    data_dir: Path | None = None
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _affinity: Affinity = field(default_factory=Affinity, init=False)
    _warmed_at: float = field(default=float("-inf"), init=False)

    @classmethod
    def open(
        cls,
        settings: CloudSettings,
        environ: Mapping[str, str],
        *,
        sensors: Sensors | None = None,
    ) -> Self:
        """Create them from *settings*, without opening a connection."""
        http = Http(proxy=settings.proxy or None)
        database = Database(settings.ledger)
        on_lan = [provider.name for provider in settings.providers if provider.is_own_machine]
        return cls(
            providers=build_engines(settings.providers, Keys(environ), http),
            settings=settings.route,
            consents=Consents(StandingConsents(settings.folder / FILE_NAME)),
            redactor=Redactor(settings.privacy),
            budget=Budget(database, settings.budget),
            breakers=CircuitBreakers(local_network=on_lan),
            sensors=sensors or Sensors(),
            journal=HandoffJournal(database),
            alarms=Alarms(),
            http=http,
            data_dir=settings.folder,
        )

    def prepare(self) -> None:
        """Load libraries, tables and certificates, so that no handoff waits for them. Sends nothing
        and returns at once."""
        threading.Thread(target=self.http.prepare, name="prepare-http", daemon=True).start()
        threading.Thread(target=self.redactor.warm, name="prepare-redactor", daemon=True).start()

    def problem(self) -> str | None:
        """Why no provider can be asked now, each with its cause; None: one can, as far as is known
        without asking."""
        causes = [(engine.name, self._problem_of(engine)) for engine in self.providers]
        if not all(cause for _, cause in causes):
            return None
        return "; ".join(f"{name}: {cause}" for name, cause in causes)

    def _problem_of(self, engine: CloudEngine) -> str | None:
        if engine.problem is not None:
            return engine.problem
        refusal = self.breakers.refusal(engine.name)
        if refusal is not None and not refusal.is_crowd:
            return refusal.message
        try:
            self.budget.check(engine.name, engine.settings.known_prices)
        except KeptLocal as error:
            return str(error)
        return None

    def provider_of(self, conversation: bytes) -> str | None:
        """The provider that *conversation* stays with; None: its next turn begins here."""
        with self._lock:
            return self._affinity.provider(conversation, self.clock())

    def stays_with(self, conversation: bytes, provider: str, settings: PolicySettings) -> None:
        """Note that *provider* gets the next turns of *conversation*, as long as *settings* say."""
        with self._lock:
            self._affinity.handed_over(conversation, provider, self.clock(), settings)

    def returned(self, conversation: bytes) -> None:
        """Note that the local model gets the next turn of *conversation*."""
        with self._lock:
            self._affinity.returned(conversation, self.clock())

    def warm_first(self) -> None:
        """Open a connection to the first provider, if the owner wants that, unless it was done a
        moment ago."""
        now = self.clock()
        if not self.settings.warms_connections:
            return
        with self._lock:
            if not self.providers or now - self._warmed_at < WARM_EVERY_S:
                return
            self._warmed_at = now
        with suppress(RuntimeError):  # the system has no thread left: the answer needs none of it
            threading.Thread(target=self.providers[0].warm, name="warm", daemon=True).start()

    def close(self) -> None:
        """End all waits for consent, and close connections, threads and the ledger."""
        self.consents.close()
        self.sensors.close()
        self.alarms.close()
        self.http.close()
        self.budget.close()
