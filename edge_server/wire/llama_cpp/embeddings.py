"""llama.cpp's own embeddings: a list of objects, each with a list of one vector."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import (
    Form,
    VectorsEncoder,
    embedding_request,
    shape_of,
)
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.llama_cpp.objects import error_body
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import Finished


class EmbeddingBody(Struct, frozen=True, kw_only=True):
    """POST /embedding and /embeddings."""

    content: Any = None
    input: Any = None
    encoding_format: Form | None = None
    embd_normalize: Annotated[int, Meta(ge=-1, le=100)] | None = None
    truncate: bool | None = None


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /embedding and /embeddings."""
    body = decode(asked.content, EmbeddingBody)
    field = "content" if body.input is None else "input"
    value = getattr(body, field)
    if value is None:
        raise bad_request("content is missing: give a text or token ids", "content")
    shape = shape_of(asked.engine, form=body.encoding_format or "float")
    if body.embd_normalize is not None:
        shape = replace(shape, norm=body.embd_normalize)
    request = embedding_request(asked.engine, value, field, truncate=bool(body.truncate))
    encoder = LlamaCppVectors(len(request.inputs), shape)
    return AnswerPlan(requests=(request,), encoder=encoder, options=asked.options)


class LlamaCppVectors(VectorsEncoder):
    """An array."""

    error_body = staticmethod(error_body)

    def body(self, finished: Finished) -> bytes:
        entries = (b'{"index":%d,"embedding":[%b]}' % entry for entry in enumerate(self.vectors))
        return b"[%b]" % b",".join(entries)
