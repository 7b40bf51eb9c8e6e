"""OpenAI's embeddings: texts or token ids become vectors."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import (
    Form,
    VectorsEncoder,
    VectorShape,
    embedding_request,
    shape_of,
)
from spillover.edge_server.wire.openai.answer import error_body
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.events import Finished

_json = msgspec.json.Encoder().encode


class EmbeddingsBody(Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings. *truncate* is no field of OpenAI's."""

    input: Any
    model: str | None = None
    encoding_format: Form | None = None
    dimensions: int | None = None
    truncate: bool | None = None


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/embeddings."""
    body = decode(asked.content, EmbeddingsBody)
    shape = shape_of(
        asked.engine,
        dimensions=body.dimensions,
        form=body.encoding_format or "float",
        field="dimensions",
    )
    request = embedding_request(asked.engine, body.input, "input", truncate=bool(body.truncate))
    encoder = OpenAiVectors(len(request.inputs), shape, asked.engine.name)
    return AnswerPlan(requests=(request,), encoder=encoder, options=asked.options)


class OpenAiVectors(VectorsEncoder):
    """One object with a list of vectors."""

    error_body = staticmethod(error_body)

    def __init__(self, n_inputs: int, shape: VectorShape, model: str) -> None:
        super().__init__(n_inputs, shape)
        self._model = model

    def body(self, finished: Finished) -> bytes:
        entries = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % entry
            for entry in enumerate(self.vectors)
        )
        return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
            entries,
            _json(self._model),
            _json(usage(finished)),
        )


def usage(finished: Finished) -> dict[str, int]:
    """The tokens that were read."""
    n_tokens = finished.usage.prompt_tokens
    return {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
