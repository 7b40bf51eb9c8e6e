"""The table of endpoints: a new dialect is a module and a row here."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from spillover.edge_server.wire import cohere, cohere_embed, rerank, tei, tgi
from spillover.edge_server.wire.anthropic import answer as anthropic
from spillover.edge_server.wire.anthropic import messages
from spillover.edge_server.wire.dialect import Endpoint, ErrorBody
from spillover.edge_server.wire.gemini import answer as gemini_answer
from spillover.edge_server.wire.gemini import bodies as gemini
from spillover.edge_server.wire.llama_cpp import completions as llama_cpp
from spillover.edge_server.wire.llama_cpp import embeddings as llama_cpp_embeddings
from spillover.edge_server.wire.llama_cpp import objects as llama_cpp_objects
from spillover.edge_server.wire.ollama import answer as ollama_answer
from spillover.edge_server.wire.ollama import bodies as ollama
from spillover.edge_server.wire.ollama import embeddings as ollama_embeddings
from spillover.edge_server.wire.openai import answer as openai
from spillover.edge_server.wire.openai import chat, completions
from spillover.edge_server.wire.openai import embeddings as openai_embeddings
from spillover.edge_server.wire.openai.responses import body as responses

ENDPOINTS = (
    Endpoint(
        paths=("/v1/chat/completions", "/chat/completions"),
        plan=chat.plan,
        error_body=openai.error_body,
    ),
    Endpoint(
        paths=("/v1/completions",),
        plan=completions.plan,
        error_body=openai.error_body,
    ),
    Endpoint(
        paths=("/v1/embeddings",),
        plan=openai_embeddings.plan,
        error_body=openai.error_body,
    ),
    Endpoint(
        paths=("/embedding", "/embeddings"),
        plan=llama_cpp_embeddings.plan,
        error_body=llama_cpp_objects.error_body,
    ),
    Endpoint(
        paths=("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
        plan=rerank.plan,
        error_body=openai.error_body,
    ),
    Endpoint(
        paths=("/v2/rerank",),
        plan=rerank.plan_cohere,
        error_body=cohere.error_body,
    ),
    Endpoint(
        paths=("/v2/embed",),
        plan=cohere_embed.plan,
        error_body=cohere.error_body,
    ),
    Endpoint(
        paths=("/embed",),
        plan=tei.plan,
        error_body=tgi.error_body,
    ),
    Endpoint(
        paths=("/v1/responses",),
        plan=responses.plan,
        error_body=openai.error_body,
    ),
    Endpoint(
        paths=("/completion", "/completions"),
        plan=llama_cpp.plan,
        error_body=llama_cpp_objects.error_body,
        prefixes=(
            "/apply-template",
            "/tokenize",
            "/detokenize",
            "/props",
            "/slots",
            "/health",
            "/metrics",
        ),
    ),
    Endpoint(
        paths=("/infill",),
        plan=llama_cpp.plan_infill,
        error_body=llama_cpp_objects.error_body,
    ),
    Endpoint(
        paths=("/v1/messages",),
        plan=messages.plan,
        error_body=anthropic.error_body,
        prefixes=("/v1/messages/",),
    ),
    Endpoint(
        paths=(
            "/v1beta/models/<path:name>:generateContent",
            "/v1/models/<path:name>:generateContent",
        ),
        plan=gemini.plan_whole,
        error_body=gemini_answer.error_body,
        prefixes=("/v1beta/", "/v1/models/<path:name>:countTokens"),
    ),
    Endpoint(
        paths=(
            "/v1beta/models/<path:name>:streamGenerateContent",
            "/v1/models/<path:name>:streamGenerateContent",
        ),
        plan=gemini.plan_stream,
        error_body=gemini_answer.error_body,
    ),
    Endpoint(
        paths=("/v2/chat",),
        plan=cohere.plan,
        error_body=cohere.error_body,
        prefixes=("/v2/",),
    ),
    Endpoint(
        paths=("/generate",),
        plan=tgi.plan_whole,
        error_body=tgi.error_body,
        prefixes=("/info",),
    ),
    Endpoint(
        paths=("/generate_stream",),
        plan=tgi.plan_stream,
        error_body=tgi.error_body,
    ),
    Endpoint(
        paths=("/",),
        plan=tgi.plan_either,
        error_body=tgi.error_body,
    ),
    Endpoint(
        paths=("/api/chat",),
        plan=ollama.plan_chat,
        error_body=ollama_answer.error_body,
        prefixes=("/api/",),
    ),
    Endpoint(
        paths=("/api/generate",),
        plan=ollama.plan_generate,
        error_body=ollama_answer.error_body,
    ),
    Endpoint(
        paths=("/api/embed",),
        plan=ollama_embeddings.plan_embed,
        error_body=ollama_answer.error_body,
    ),
    Endpoint(
        paths=("/api/embeddings",),
        plan=ollama_embeddings.plan_embeddings,
        error_body=ollama_answer.error_body,
    ),
)


def error_body_of(path: str, endpoints: Sequence[Endpoint] = ENDPOINTS) -> ErrorBody:
    """The shape of errors at *path*: OpenAI's where no dialect claims it."""
    for endpoint in endpoints:
        if any(_pattern(each).fullmatch(path) for each in endpoint.paths):
            return endpoint.error_body
    for endpoint in endpoints:
        if any(_pattern(each).match(path) for each in endpoint.prefixes):
            return endpoint.error_body
    return openai.error_body


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    """A path as Flask writes it, as a regular expression."""
    literals = re.split(r"<[a-z:]+>", path)
    return re.compile(".+".join(map(re.escape, literals)))
