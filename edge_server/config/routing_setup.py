"""From the settings to the router: what stands between an answer and the cloud."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.policy.sensors import Sensors
from spillover.cloud_fallback.privacy.consent import ConsentDesk
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.route.breaker import Breakers
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.parts import Parts, Trust
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.routing import Routing
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.journal import HandoffJournal
from spillover.edge_server.config.settings import Settings
from spillover.runtime.alarms import Alarms
from spillover.runtime.local_engine import LocalEngine


def build_router(engine: LocalEngine, settings: Settings, environ: Mapping[str, str]) -> Router:
    """The router of *engine*'s answers. With fallback "never", or without a provider, nothing of
    the cloud is made: no key is looked for, no file is opened, no connection is thought of."""
    cloud = settings.cloud
    if cloud.fallback == "never" or not cloud.providers:
        return Router(engine, Routing(fallback="never"), None)
    parts = _parts(engine, cloud, Keys(environ))
    engine.watch_deaths(parts.worker_died)
    return Router(engine, cloud.routing, parts)


def provider_engines(settings: Settings, environ: Mapping[str, str]) -> tuple[CloudEngine, ...]:
    """The providers in the order in which they are asked, to be looked at; nothing is opened."""
    return _engines(settings.cloud, Keys(environ), Http())


def _engines(cloud: CloudSettings, keys: Keys, http: Http) -> tuple[CloudEngine, ...]:
    """Machines next door first."""
    providers = sorted(cloud.providers, key=lambda provider: not provider.is_local_network)
    return tuple(build_engine(provider, keys=keys, http=http) for provider in providers)


def _parts(engine: LocalEngine, cloud: CloudSettings, keys: Keys) -> Parts:
    next_door = [provider.name for provider in cloud.providers if provider.is_local_network]
    http = Http(proxy=cloud.proxy or None)
    redactor = Redactor(cloud.privacy)
    # Libraries, tables and certificates, so that no handoff waits for them; nothing is sent.
    threading.Thread(target=http.prepare, name="prepare-http", daemon=True).start()
    threading.Thread(target=redactor.warm, name="prepare-redactor", daemon=True).start()
    database = Database(cloud.ledger)
    return Parts(
        engine,
        _engines(cloud, keys, http),
        settings=cloud.route,
        policy=cloud.policy,
        trust=Trust(
            consent=ConsentDesk(),
            redactor=redactor,
            budget=Budget(database, cloud.budget),
            breakers=Breakers(local_network=next_door),
        ),
        sensors=Sensors(),
        journal=HandoffJournal(database),
        alarms=Alarms(),
        http=http,
        data_dir=cloud.folder,
    )
