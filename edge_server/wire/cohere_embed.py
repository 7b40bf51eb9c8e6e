"""Cohere's embeddings, version 2."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.edge_server.wire.cohere import error_body
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import (
    InputsEncoder,
    VectorShape,
    checked,
    shape_of,
)
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.embedding_request import MAX_INPUTS, EmbeddingRequest
from spillover.runtime.events import Embedded, Finished
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_FORMS = ("float", "base64")


class EmbedBody(Struct, frozen=True, kw_only=True):
    """POST /v2/embed. What is too long is cut, unless *truncate* is NONE."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_INPUTS)] | None = None
    model: str | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    embedding_types: tuple[str, ...] | None = None
    output_dimension: int | None = None
    images: tuple[Any, ...] | None = None
    inputs: tuple[Any, ...] | None = None


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v2/embed."""
    body = decode(asked.content, EmbedBody)
    for field in ("images", "inputs"):
        if getattr(body, field):
            raise bad_request(f"{field} is not supported: this model reads only texts", field)
    if body.texts is None:
        raise bad_request("texts is missing: give a list of texts", "texts")
    if body.truncate == "START":
        raise bad_request("truncate START is not supported: only the end is cut", "truncate")
    forms = body.embedding_types or ("float",)
    if unknown := next((form for form in forms if form not in _FORMS), None):
        message = f"embedding_types: {unknown[:40]!r} is not supported: ask for float or base64"
        raise bad_request(message, "embedding_types")
    shape = shape_of(asked.engine, dimensions=body.output_dimension, field="output_dimension")
    shapes = {form: replace(shape, form=form) for form in _FORMS if form in forms}
    request = EmbeddingRequest(inputs=body.texts, truncate=body.truncate != "NONE", field="texts")
    encoder = CohereVectors(body.texts, shapes, asked.options.id)
    return AnswerPlan(requests=(checked(request),), encoder=encoder, options=asked.options)


class CohereVectors(InputsEncoder):
    """One object with all vectors in each form that is asked for."""

    error_body = staticmethod(error_body)

    def __init__(
        self, texts: tuple[str, ...], shapes: dict[str, VectorShape], answer_id: str
    ) -> None:
        super().__init__(len(texts))
        self._texts = texts
        self._shapes = shapes
        self._id = answer_id
        self._vectors = {form: [b""] * len(texts) for form in shapes}

    def take(self, event: Embedded) -> None:
        for form, shape in self._shapes.items():
            self._vectors[form][event.index] = shape.encoded(event.vector)

    def body(self, finished: Finished) -> bytes:
        vectors = b",".join(
            b'"%b":[%b]' % (form.encode(), b",".join(entries))
            for form, entries in self._vectors.items()
        )
        rest = {
            "id": self._id,
            "response_type": "embeddings_by_type",
            "texts": [valid_text(text) for text in self._texts],
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"input_tokens": 0},
                "tokens": {"input_tokens": finished.usage.prompt_tokens},
            },
        }
        return b'{"embeddings":{%b},%b' % (vectors, _json(rest)[1:])
