"""What `spillover doctor` says about the providers: whether one of them can take over."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.build import build_engines
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.inquiry import ServerFacts
from spillover.cloud_fallback.providers.keys import Keys
from spillover.edge_server.commands.doctor.checkup import Findings
from spillover.edge_server.config.settings import Settings


def check_providers(findings: Findings, settings: Settings, environ: Mapping[str, str]) -> None:
    """Reach every provider that may be asked, without a prompt; with fallback "never" none."""
    cloud = settings.cloud
    names = ", ".join(provider.name for provider in cloud.providers) or "no provider"
    others = {name: own for name, own in settings.fallbacks.items() if own != cloud.fallback}
    findings.fallback = "; ".join(
        [f"{cloud.fallback} ({names})", *(f"{name}: {own}" for name, own in others.items())]
    )
    wanted = next((own for own in settings.fallbacks.values() if own != "never"), None)
    if wanted is None:
        return
    with closing(Http(proxy=cloud.proxy or None)) as http:
        engines = build_engines(cloud.providers, Keys(environ), http)
        with ThreadPoolExecutor(max_workers=8) as pool:
            causes = list(pool.map(lambda engine: _check(findings, engine), engines))
    if not engines:
        findings.add_for_fallback(
            f"fallback is {wanted}, but there is no provider that could take over",
            "add one: spillover connect --help",
        )
    for engine, cause in zip(engines, causes, strict=True):
        if cause is None:
            continue
        what = f"{engine.name} at {engine.settings.address}: {cause}"
        if all(causes):
            findings.add_for_fallback(f"{what}; no other provider can take over", _REMEDY)
        else:
            findings.add(what, _REMEDY, blocks=False)


_REMEDY = "see docs/providers.md"


def _check(findings: Findings, engine: CloudEngine) -> str | None:
    """Why *engine* cannot take over; notes what it says about itself."""
    if engine.problem is not None:
        return engine.problem
    try:
        facts = engine.api.contact()
    except ProviderError as error:
        return error.cause
    findings.providers[engine.name] = f"{engine.settings.address}: {_shown(facts)}"
    names = [model.name for model in facts.models] if facts is not None else []
    if names and engine.settings.model not in names and engine.settings.is_own_machine:
        findings.add(
            f"{engine.name} does not list the model {engine.settings.model}",
            f"it has {', '.join(names[:10])}",
            blocks=False,
        )
    return None


def _shown(facts: ServerFacts | None) -> str:
    if facts is None or facts.status != 200:
        return "reached, but its key was not checked"
    return f"{facts.kind or 'answers'}, {len(facts.models)} models"
