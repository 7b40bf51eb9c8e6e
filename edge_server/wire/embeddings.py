"""What all dialects of vectors and scores share: their inputs, and how the answer is made."""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Mapping
from math import exp
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.wire.dialect import Encoder, cancelled, failure
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.prompts import prompts_of, tokens_of
from spillover.runtime.embedding_request import MAX_INPUTS, EmbeddingRequest
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Embedded, Finished

Vector: TypeAlias = npt.NDArray[np.float32]
Form: TypeAlias = Literal["float", "base64"]

_json = msgspec.json.Encoder().encode
_INT16_NORM = 32_760.0
"""llama.cpp's norm 0 makes the largest number of a vector this large."""
EUCLIDEAN = 2


class VectorShape(Struct, frozen=True, kw_only=True):
    """What becomes of a model's vector on its way to the client."""

    dimensions: int | None = None
    """Only so many of its first numbers."""
    norm: int = EUCLIDEAN
    """By what it is divided, as llama.cpp numbers it: -1 nothing, 0 its largest number, p its
    p-norm."""
    form: Form = "float"

    def encoded(self, content: bytes) -> bytes:
        """A vector of little-endian float32 as JSON: an array, or base64 of the same."""
        vector: Vector = np.frombuffer(content, dtype="<f4")[: self.dimensions]
        vector = divided(vector, self.norm)
        if self.form == "base64":
            return b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"'
        return _json(vector.tolist())


def divided(vector: Vector, norm: int) -> Vector:
    """*vector* divided by its norm; see VectorShape."""
    if norm < 0:
        return vector
    if norm == 0:
        length = float(np.abs(vector).max()) / _INT16_NORM
    else:
        length = float(np.linalg.norm(vector.astype(np.float64), norm))
    return vector if length == 0 else np.asarray(vector / length, dtype=np.float32)


def shape_of(
    engine: TextEngine, *, dimensions: int | None = None, form: Form = "float", field: str = ""
) -> VectorShape:
    """As the model's vectors are meant, or cut to *dimensions*, which makes their length 1 again.
    *field*: what the client calls them."""
    card = engine.card.embedding
    if dimensions is not None and card is not None and not 1 <= dimensions <= card.n_values:
        message = f"{field} must be from 1 to {card.n_values}, the size of {engine.name}'s vectors"
        raise bad_request(message, field)
    normalizes = card is None or card.normalizes or dimensions is not None
    return VectorShape(dimensions=dimensions, norm=EUCLIDEAN if normalizes else -1, form=form)


def embedding_request(
    engine: TextEngine, value: Any, field: str, *, truncate: bool
) -> EmbeddingRequest:
    """The request for the texts or token ids in a body's *field*, or a 400."""
    sent = prompts_of(value, field, most=MAX_INPUTS, most_parts=MAX_INPUTS)
    inputs = tuple(
        prompt.plain if prompt.plain is not None else tokens_of(engine, prompt) for prompt in sent
    )
    return checked(EmbeddingRequest(inputs=inputs, truncate=truncate, field=field))


def checked(request: EmbeddingRequest) -> EmbeddingRequest:
    """*request*, or a 400 with the client's name of the field."""
    try:
        return request.checked()
    except InvalidRequest as error:
        message = str(error).replace("inputs", request.field, 1)
        raise bad_request(message, (error.param or "").replace("inputs", request.field)) from error


class InputsEncoder(Encoder):
    """Collects what becomes of the inputs; one body of JSON at the end."""

    is_stream = False
    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json"}

    def __init__(self, n_inputs: int) -> None:
        self._n_left = n_inputs
        self._finished: Finished | None = None
        self._failed: Failed | None = None

    def feed(self, event: StreamEvent) -> bytes:
        match event:
            case Embedded():
                self._n_left -= 1
                self.take(event)
            case Finished():
                self._finished = event
            case Failed():
                self._failed = event
        return b""

    def end(self) -> bytes:
        if self._failed is not None:
            raise failure(self._failed)
        finished = self._finished
        if finished is None or finished.reason == "cancelled" or self._n_left:
            raise cancelled()
        return self.body(finished)

    def fail(self, error: WireError) -> bytes:
        return self.error_body(error)

    @abstractmethod
    def take(self, event: Embedded) -> None:
        """Note the vector or the score of an input."""

    @abstractmethod
    def body(self, finished: Finished) -> bytes:
        """The JSON of the whole answer."""


class VectorsEncoder(InputsEncoder):
    """Vectors are encoded as they come: all at once would hold up other streams."""

    def __init__(self, n_inputs: int, shape: VectorShape) -> None:
        super().__init__(n_inputs)
        self._shape = shape
        self.vectors = [b""] * n_inputs
        """By input; JSON."""

    def take(self, event: Embedded) -> None:
        self.vectors[event.index] = self._shape.encoded(event.vector)

    def array(self) -> bytes:
        """All of them as an array."""
        return b"[" + b",".join(self.vectors) + b"]"


class Ranked(Struct, frozen=True):
    """A document's place in the ranking."""

    index: int
    score: float


class ScoresEncoder(InputsEncoder):
    """Ranks documents. *is_logit*: scores are logits, which become numbers from 0 to 1."""

    def __init__(self, n_inputs: int, *, top_n: int | None, is_logit: bool) -> None:
        super().__init__(n_inputs)
        self._top_n = top_n
        self._is_logit = is_logit
        self._scores: dict[int, float] = {}

    def take(self, event: Embedded) -> None:
        self._scores[event.index] = float(np.frombuffer(event.vector, dtype="<f4")[0])

    def ranking(self) -> list[Ranked]:
        """The best documents, best first; equal ones in the client's order."""
        ordered = sorted(self._scores.items(), key=lambda item: (-item[1], item[0]))
        return [
            Ranked(index, sigmoid(score) if self._is_logit else score)
            for index, score in ordered[: self._top_n]
        ]


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    power = exp(-abs(value))
    return 1 / (1 + power) if value >= 0 else power / (1 + power)
