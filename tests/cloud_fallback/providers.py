"""Engines for fake providers."""

from __future__ import annotations

from typing import Any

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.providers.settings import ProviderSettings
from tests.fakes.fake import Fake
from tests.in_memory_ring import InMemoryRing

KEY = "sk-never-to-be-seen-1234567890"
MODELS: dict[str, str] = {
    "openai": "gpt-4.1-mini",
    "azure": "gpt-4.1-mini",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "cohere": "command-a-03-2025",
    "huggingface": "meta-llama/Llama-3.1-8B-Instruct",
    "tgi": "tgi",
    "bedrock": "anthropic.claude-haiku-4-5-20251001-v1:0",
}
DIALECTS = tuple(MODELS)
"""Every dialect that the fakes speak."""


def settings_for(fake: Fake, dialect: str = "openai", **fields: Any) -> ProviderSettings:
    """A provider at *fake*, named like its dialect."""
    base = fake.url + ("/v1" if dialect == "openai" else "")
    defaults: dict[str, Any] = {"name": dialect, "model": MODELS[dialect], "base_url": base}
    defaults["is_local_network"] = False
    if dialect == "openai":
        defaults["server"] = "openai"
    return ProviderSettings(dialect=dialect, **defaults | fields)


def engine_for(
    fake: Fake, dialect: str = "openai", *, http: Http | None = None, **fields: Any
) -> CloudEngine:
    """An engine for it, with a key; close its http at the end, or lend it one."""
    keys = Keys({"KEY": KEY}, InMemoryRing())
    settings = settings_for(fake, dialect, **{"key_variable": "KEY"} | fields)
    return build_engine(settings, keys=keys, http=http or Http())
