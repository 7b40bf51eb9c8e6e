"""The dialect that a provider speaks."""

from __future__ import annotations

from urllib.parse import quote

from spillover.cloud_fallback.providers.dialects.anthropic import AnthropicDialect
from spillover.cloud_fallback.providers.dialects.bedrock import BedrockDialect
from spillover.cloud_fallback.providers.dialects.cohere import CohereDialect
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.gemini import GeminiDialect
from spillover.cloud_fallback.providers.dialects.openai import OpenAIDialect
from spillover.cloud_fallback.providers.dialects.tgi import TgiDialect
from spillover.cloud_fallback.providers.settings import ProviderSettings


def dialect_of(settings: ProviderSettings) -> Dialect:
    """The dialect of a provider."""
    provider, root = settings.name, settings.root
    headers = {}
    if settings.company.scales_to_zero:
        headers["x-scale-up-timeout"] = str(int(settings.first_text_timeout_s))
    match settings.company.wire:
        case "openai":
            return OpenAIDialect(
                provider=provider,
                server=settings.server_kind,
                path=_openai_path(settings),
                headers=headers,
                deployment=settings.deployment if settings.server_kind.has_deployments else None,
                max_tokens_field=settings.max_tokens_field,
            )
        case "anthropic":
            return AnthropicDialect(provider=provider, path=f"{root}/messages")
        case "gemini":
            return GeminiDialect(
                provider=provider,
                models=_gemini_models(settings),
                takes_tokens=settings.needs_token,
            )
        case "cohere":
            return CohereDialect(provider=provider, path=f"{root}/chat")
        case "tgi":
            return TgiDialect(
                provider=provider, headers=headers, chat_template=settings.chat_template
            )
        case "bedrock":
            return BedrockDialect(provider=provider)


def _openai_path(settings: ProviderSettings) -> str:
    if settings.api_version is None or not settings.server_kind.has_deployments:
        return f"{settings.root}/chat/completions"
    version = quote(settings.api_version, safe="")
    return f"/openai/deployments/{{deployment}}/chat/completions?api-version={version}"


def _gemini_models(settings: ProviderSettings) -> str:
    if settings.company.without_key != "google":
        return f"{settings.root}/models"
    place = ""
    if settings.project is not None:
        place = f"/projects/{quote(settings.project, safe=':')}"
        place += f"/locations/{quote(settings.location, safe='')}"
    return f"{settings.root}{place}/publishers/google/models"
