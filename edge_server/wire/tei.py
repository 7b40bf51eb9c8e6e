"""Hugging Face's Text Embeddings Inference: texts become an array of vectors."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from spillover.edge_server.wire import tgi
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import (
    EUCLIDEAN,
    VectorsEncoder,
    embedding_request,
    shape_of,
)
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import Finished


class EmbedBody(Struct, frozen=True, kw_only=True):
    """POST /embed."""

    inputs: Any
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    dimensions: int | None = None
    prompt_name: str | None = None


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /embed."""
    body = decode(asked.content, EmbedBody)
    if body.truncation_direction in ("left", "Left"):
        message = "truncation_direction left is not supported: only the end of a text is cut"
        raise bad_request(message, "truncation_direction")
    if body.prompt_name:
        message = "prompt_name is not supported: put the prompt before the text"
        raise bad_request(message, "prompt_name")
    shape = shape_of(asked.engine, dimensions=body.dimensions, field="dimensions")
    if body.normalize is not None:
        shape = replace(shape, norm=EUCLIDEAN if body.normalize else -1)
    request = embedding_request(asked.engine, body.inputs, "inputs", truncate=bool(body.truncate))
    encoder = TeiVectors(len(request.inputs), shape)
    return AnswerPlan(requests=(request,), encoder=encoder, options=asked.options)


class TeiVectors(VectorsEncoder):
    """An array of arrays."""

    error_body = staticmethod(tgi.error_body)

    def body(self, finished: Finished) -> bytes:
        return self.array()
