"""Makes an engine of a provider's settings."""

from __future__ import annotations

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.credentials.aws_signature import AwsSignature
from spillover.cloud_fallback.providers.credentials.credentials import (
    Credentials,
    Key,
    Missing,
    NoKey,
)
from spillover.cloud_fallback.providers.credentials.google_adc import GoogleDefault
from spillover.cloud_fallback.providers.credentials.token_command import TokenCommand
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.registry import dialect_for
from spillover.cloud_fallback.providers.keys import Keys, advice
from spillover.cloud_fallback.providers.provider import ProviderSettings


def build_engine(settings: ProviderSettings, *, keys: Keys, http: Http) -> CloudEngine:
    """The engine of a provider. Opens nothing; a missing key or package is its `problem`."""
    dialect = _dialect(settings)
    return CloudEngine(settings, dialect, http, _credentials(settings, dialect, keys, http))


def _dialect(settings: ProviderSettings) -> Dialect:
    return dialect_for(
        settings.dialect,
        provider=settings.name,
        base_url=settings.address,
        server=settings.server,
        max_tokens_field=settings.max_tokens_field,
        api_version=settings.api_version,
        deployment=settings.deployment,
        project=settings.project,
        location=settings.location,
        chat_template=settings.chat_template,
        scale_up_timeout_s=int(settings.first_text_timeout_s),
    )


def _credentials(
    settings: ProviderSettings, dialect: Dialect, keys: Keys, http: Http
) -> Credentials:
    name = settings.name
    if settings.token_command:
        return TokenCommand(name, settings.token_command)
    if key := keys.find(settings):
        return Key(name, key, dialect.key_headers)
    if settings.is_local_network or settings.dialect == "tgi":
        return NoKey()
    if settings.dialect == "vertex" and settings.project is not None:
        return GoogleDefault(name, http)
    if settings.dialect == "bedrock":
        return AwsSignature(name, settings.location)
    return Missing(name, advice(settings))
