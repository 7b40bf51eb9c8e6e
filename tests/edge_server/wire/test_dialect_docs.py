"""docs/dialects.md tells of every field of a dialect what becomes of it."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import cohere
import pytest
from anthropic.types import message_create_params
from huggingface_hub import InferenceClient
from msgspec import Struct
from msgspec.structs import fields
from ollama._types import ChatRequest, EmbeddingsRequest, EmbedRequest, GenerateRequest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from spillover.edge_server.wire.anthropic.messages import MessagesBody
from spillover.edge_server.wire.cohere import CohereBody
from spillover.edge_server.wire.cohere_embed import EmbedBody as CohereEmbed
from spillover.edge_server.wire.gemini.bodies import GenerateBody as GeminiBody
from spillover.edge_server.wire.llama_cpp.completions import LlamaCppBody
from spillover.edge_server.wire.llama_cpp.embeddings import EmbeddingBody
from spillover.edge_server.wire.ollama.bodies import ChatBody, GenerateBody
from spillover.edge_server.wire.ollama.embeddings import EmbedBody as OllamaEmbed
from spillover.edge_server.wire.ollama.embeddings import EmbeddingsBody as OllamaEmbeddings
from spillover.edge_server.wire.openai.chat import ChatBody as OpenAiChat
from spillover.edge_server.wire.openai.completions import CompletionBody
from spillover.edge_server.wire.openai.embeddings import EmbeddingsBody as OpenAiEmbeddings
from spillover.edge_server.wire.openai.responses.body import ResponsesBody
from spillover.edge_server.wire.request_body import CommonBody
from spillover.edge_server.wire.rerank import RerankBody
from spillover.edge_server.wire.tei import EmbedBody as TeiEmbed
from spillover.edge_server.wire.tgi import TgiBody

DOCS = Path(__file__).parent.parent.parent.parent / "docs" / "dialects.md"
ROW = re.compile(r"\| `(\w+)` \| (\w+) \|")
BODIES: dict[str, tuple[type[Struct], set[str]]] = {
    "POST /v1/chat/completions": (
        OpenAiChat,
        set(chat_create_params.CompletionCreateParamsBase.__annotations__),
    ),
    "POST /v1/completions": (
        CompletionBody,
        set(completion_create_params.CompletionCreateParamsBase.__annotations__),
    ),
    "POST /completion": (LlamaCppBody, {"prompt", "n_predict", "stream"}),
    "POST /v1/responses": (
        ResponsesBody,
        set(response_create_params.ResponseCreateParamsBase.__annotations__),
    ),
    "POST /api/chat": (ChatBody, set(ChatRequest.model_fields)),
    "POST /api/generate": (GenerateBody, set(GenerateRequest.model_fields)),
    "POST /v1beta/models/NAME:generateContent": (
        GeminiBody,
        {"contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "labels"},
    ),
    "POST /v2/chat": (
        CohereBody,
        set(inspect.signature(cohere.ClientV2.chat).parameters) - {"self", "request_options"},
    ),
    "POST /generate": (TgiBody, {"inputs", "parameters", "stream"}),
    "POST /v1/embeddings": (
        OpenAiEmbeddings,
        set(embedding_create_params.EmbeddingCreateParams.__annotations__),
    ),
    "POST /embedding": (EmbeddingBody, {"content", "input", "embd_normalize"}),
    "POST /v1/rerank": (
        RerankBody,
        set(inspect.signature(cohere.ClientV2.rerank).parameters) - {"self", "request_options"},
    ),
    "POST /api/embed": (OllamaEmbed, set(EmbedRequest.model_fields)),
    "POST /api/embeddings": (OllamaEmbeddings, set(EmbeddingsRequest.model_fields)),
    "POST /v2/embed": (
        CohereEmbed,
        set(inspect.signature(cohere.ClientV2.embed).parameters) - {"self", "request_options"},
    ),
    "POST /embed": (
        TeiEmbed,
        {"inputs"}
        | set(inspect.signature(InferenceClient.feature_extraction).parameters)
        - {"self", "text", "model"},
    ),
    "POST /v1/messages": (
        MessagesBody,
        set(message_create_params.MessageCreateParamsBase.__annotations__),
    ),
}
"""Of each path the type of its body, and the fields that the official client can send."""


def table(path: str) -> dict[str, str]:
    """Field and what becomes of it, as documented."""
    section = DOCS.read_text("utf-8").partition(f"`{path}`\n")[2].partition("\n## ")[0]
    return dict(ROW.findall(section))


def read_by(body: type[Struct]) -> set[str]:
    return {field.encode_name for field in fields(body)}


@pytest.mark.parametrize("path", BODIES)
def test_the_table_has_what_the_official_client_sends(path: str) -> None:
    """A client that is newer than the table has new fields: those are ignored, as all others."""
    missing = BODIES[path][1] - table(path).keys()
    if missing:
        warnings.warn(f"docs/dialects.md does not list {sorted(missing)}", stacklevel=1)
    assert len(missing) < len(BODIES[path][1]) / 2


@pytest.mark.parametrize("path", BODIES)
def test_the_table_says_what_the_code_does(path: str) -> None:
    body: Any = BODIES[path][0]
    told = table(path)
    assert set(told.values()) <= {"supported", "mapped", "ignored", "refused"}
    used = {name for name, what in told.items() if what != "ignored"}
    assert used <= read_by(body)
    shared = read_by(CommonBody) if issubclass(body, CommonBody) else {"model"}
    own = read_by(body) - shared
    assert own <= told.keys()
    assert not {name for name, what in told.items() if what == "ignored"} & own
