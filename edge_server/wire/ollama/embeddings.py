"""Ollama's embeddings, in its present and its older form."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import (
    VectorsEncoder,
    VectorShape,
    checked,
    shape_of,
)
from spillover.edge_server.wire.ollama.answer import error_body
from spillover.edge_server.wire.ollama.bodies import keep_alive_s
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.embedding_request import MAX_INPUTS, EmbeddingRequest
from spillover.runtime.events import Finished

_json = msgspec.json.Encoder().encode


class EmbedBody(Struct, frozen=True, kw_only=True):
    """POST /api/embed. What is too long is cut, unless *truncate* is false."""

    model: str | None = None
    input: str | Annotated[tuple[str, ...], Meta(max_length=MAX_INPUTS)] = ()
    truncate: bool | None = None
    keep_alive: str | float | None = None
    dimensions: int | None = None


class EmbeddingsBody(Struct, frozen=True, kw_only=True):
    """POST /api/embeddings, the older form for one text."""

    model: str | None = None
    prompt: str = ""
    keep_alive: str | float | None = None


def plan_embed(asked: AnswerRequest) -> AnswerPlan | bytes:
    """POST /api/embed."""
    body = decode(asked.content, EmbedBody)
    texts = (body.input,) if isinstance(body.input, str) else body.input
    model = asked.engine.name
    if not body.input:
        return _json({"model": model, "embeddings": []})
    shape = shape_of(asked.engine, dimensions=body.dimensions, field="dimensions")
    request = EmbeddingRequest(inputs=texts, truncate=body.truncate is not False)
    encoder = OllamaVectors(len(texts), shape, model)
    return AnswerPlan(
        requests=(checked(request),),
        encoder=encoder,
        options=asked.options,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )


def plan_embeddings(asked: AnswerRequest) -> AnswerPlan | bytes:
    """POST /api/embeddings."""
    body = decode(asked.content, EmbeddingsBody)
    if not body.prompt:
        return _json({"embedding": []})
    request = EmbeddingRequest(inputs=(body.prompt,), truncate=True, field="prompt")
    encoder = OllamaVector(1, shape_of(asked.engine))
    return AnswerPlan(
        requests=(checked(request),),
        encoder=encoder,
        options=asked.options,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )


class OllamaVectors(VectorsEncoder):
    """One object with all vectors; durations in nanoseconds."""

    error_body = staticmethod(error_body)

    def __init__(self, n_inputs: int, shape: VectorShape, model: str) -> None:
        super().__init__(n_inputs, shape)
        self._model = model

    def body(self, finished: Finished) -> bytes:
        times = finished.timings
        return (
            b'{"model":%b,"embeddings":%b,"total_duration":%d,"load_duration":0,'
            b'"prompt_eval_count":%d}'
        ) % (
            _json(self._model),
            self.array(),
            int(1e6 * (times.queue_ms + times.prefill_ms)),
            finished.usage.prompt_tokens,
        )


class OllamaVector(VectorsEncoder):
    """One object with one vector."""

    error_body = staticmethod(error_body)

    def body(self, finished: Finished) -> bytes:
        return b'{"embedding":%b}' % self.vectors[0]
