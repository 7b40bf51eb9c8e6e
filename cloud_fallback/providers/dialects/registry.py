"""Which dialect a provider speaks."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args
from urllib.parse import quote, urlsplit

from spillover.cloud_fallback.providers.dialects.anthropic import AnthropicDialect
from spillover.cloud_fallback.providers.dialects.bedrock import BedrockDialect
from spillover.cloud_fallback.providers.dialects.cohere import CohereDialect
from spillover.cloud_fallback.providers.dialects.dialect import Dialect
from spillover.cloud_fallback.providers.dialects.gemini import GeminiDialect
from spillover.cloud_fallback.providers.dialects.openai import OpenAIDialect
from spillover.cloud_fallback.providers.dialects.openai_servers import (
    MaxTokensField,
    ServerName,
    server_at,
)
from spillover.cloud_fallback.providers.dialects.tgi import TgiDialect
from spillover.runtime.errors import InvalidRequest

DialectName: TypeAlias = Literal[
    "openai",
    "azure",
    "anthropic",
    "gemini",
    "vertex",
    "cohere",
    "huggingface",
    "tgi",
    "bedrock",
]
DIALECT_NAMES: tuple[str, ...] = get_args(DialectName)

SCALE_UP_TIMEOUT_S = 600
"""How long Hugging Face holds a request while an endpoint that was scaled to zero starts."""


def dialect_for(
    name: DialectName,
    *,
    provider: str | None = None,
    base_url: str = "",
    server: ServerName | None = None,
    max_tokens_field: MaxTokensField | None = None,
    api_version: str | None = None,
    deployment: str | None = None,
    project: str | None = None,
    location: str | None = None,
    scale_up_timeout_s: int = SCALE_UP_TIMEOUT_S,
    chat_template: str | None = None,
) -> Dialect:
    """The dialect *name*; *provider* is what its errors call it.

    *server*: which kind of OpenAI-compatible server it is; None: guessed from *base_url*.
    *api_version*, *deployment*: Azure's; without a version its v1 path is used.
    *project*, *location*: Vertex AI's; without a project its express mode is used.
    *chat_template*: for tgi, which takes plain text: the jinja source of the model's template.
    """
    provider = provider or name
    held = {"x-scale-up-timeout": str(scale_up_timeout_s)}
    match name:
        case "openai":
            return OpenAIDialect(
                provider=provider,
                server=server or (server_at(base_url) if base_url else "openai"),
                max_tokens_field=max_tokens_field,
            )
        case "azure":
            return OpenAIDialect(
                provider=provider,
                server="azure",
                path=_azure_path(base_url, api_version),
                deployment=deployment,
                max_tokens_field=max_tokens_field,
            )
        case "huggingface":
            return OpenAIDialect(
                provider=provider,
                server=server or _hugging_face_server(base_url),
                path=_from_root(base_url, "/v1", "/chat/completions"),
                headers=held,
                max_tokens_field=max_tokens_field,
            )
        case "anthropic":
            return AnthropicDialect(
                provider=provider, path=_from_root(base_url, "/v1", "/messages")
            )
        case "gemini":
            return GeminiDialect(
                provider=provider, models=_from_root(base_url, "/v1beta", "/models")
            )
        case "vertex":
            return GeminiDialect(
                provider=provider,
                models=_vertex_models(project, location),
                takes_tokens=project is not None,
            )
        case "cohere":
            return CohereDialect(provider=provider, path=_from_root(base_url, "/v2", "/chat"))
        case "tgi":
            return TgiDialect(provider=provider, headers=held, chat_template=chat_template)
        case "bedrock":
            return BedrockDialect(provider=provider)
    raise InvalidRequest(f"the dialect {name!r} is not known", "dialect")


def _from_root(base_url: str, prefix: str, path: str) -> str:
    """*path* under *prefix*, unless *base_url* ends with that prefix already."""
    return path if urlsplit(base_url).path.rstrip("/").endswith(prefix) else prefix + path


def _hugging_face_server(base_url: str) -> ServerName:
    """The router passes requests on to companies that have little in common."""
    return "other" if urlsplit(base_url).hostname == "router.huggingface.co" else "huggingface"


def _azure_path(base_url: str, api_version: str | None) -> str:
    if api_version is None:
        return _from_root(base_url, "/openai/v1", "/chat/completions")
    version = quote(api_version, safe="")
    return f"/openai/deployments/{{deployment}}/chat/completions?api-version={version}"


def _vertex_models(project: str | None, location: str | None) -> str:
    if project is None:
        return "/v1/publishers/google/models"
    place = f"projects/{quote(project, safe=':')}/locations/{quote(location or 'global', safe='')}"
    return f"/v1/{place}/publishers/google/models"
