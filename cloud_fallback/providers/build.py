"""Makes engines from the settings of providers."""

from __future__ import annotations

from collections.abc import Iterable

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.companies import WireFormat
from spillover.cloud_fallback.providers.credentials.aws_signature import AwsSignature
from spillover.cloud_fallback.providers.credentials.credentials import Credentials, Key
from spillover.cloud_fallback.providers.credentials.google_adc import GoogleDefault
from spillover.cloud_fallback.providers.credentials.token_command import TokenCommand
from spillover.cloud_fallback.providers.dialects.anthropic import AnthropicDialect
from spillover.cloud_fallback.providers.dialects.bedrock import BedrockDialect
from spillover.cloud_fallback.providers.dialects.cohere import CohereDialect
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.gemini import GeminiDialect
from spillover.cloud_fallback.providers.dialects.openai import OpenAIDialect
from spillover.cloud_fallback.providers.dialects.tgi import TgiDialect
from spillover.cloud_fallback.providers.keys import Keys, advice
from spillover.cloud_fallback.providers.settings import ProviderSettings

_DIALECTS: dict[WireFormat, type[Dialect]] = {
    "openai": OpenAIDialect,
    "anthropic": AnthropicDialect,
    "gemini": GeminiDialect,
    "cohere": CohereDialect,
    "tgi": TgiDialect,
    "bedrock": BedrockDialect,
}


def build_engines(
    providers: Iterable[ProviderSettings], keys: Keys, http: Http
) -> tuple[CloudEngine, ...]:
    """The engines of *providers*, in the order in which they are asked: those on the LAN first."""
    ordered = sorted(providers, key=lambda settings: not settings.is_own_machine)
    return tuple(build_engine(settings, keys=keys, http=http) for settings in ordered)


def build_engine(settings: ProviderSettings, *, keys: Keys, http: Http) -> CloudEngine:
    """The engine of a provider. Opens nothing; a missing key or package is its `problem`."""
    dialect = dialect_of(settings)
    return CloudEngine(settings, dialect, http, _credentials(settings, dialect, keys, http))


def dialect_of(settings: ProviderSettings) -> Dialect:
    """The dialect of a provider."""
    return _DIALECTS[settings.company.wire](settings)


def _credentials(
    settings: ProviderSettings, dialect: Dialect, keys: Keys, http: Http
) -> Credentials:
    name, without_key = settings.name, settings.company.without_key
    if settings.token_command:
        return TokenCommand(name, settings.token_command)
    if key := keys.find(settings):
        return Key(name, key, dialect.key_headers)
    if settings.is_own_machine or without_key == "allowed":
        return Credentials(name)
    if settings.needs_token:
        return GoogleDefault(name, http)
    if without_key == "aws":
        return AwsSignature(name, settings.location)
    return Credentials(name, advice(settings))
