"""What a caller requests of a model that turns texts into vectors, or ranks them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from spillover.runtime.checked import checked
from spillover.runtime.decoders import decoder_of
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, KeepAlive, TokenId

MAX_INPUTS = 2_048
"""Of one request; as at OpenAI."""
MAX_INPUT_TOKENS = 1_048_576
"""Of all inputs of a request together."""

Pooling: TypeAlias = Literal["mean", "cls", "last", "rank"]
"""How the vectors of an input's tokens become one: their mean, the first token's, the last one's.
rank: a score instead of a vector, from a query and a document."""


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """Texts or token ids, of which each becomes a vector. With *query* the inputs are documents,
    each of which gets a score instead: how well it answers the query."""

    inputs: Annotated[
        tuple[str | tuple[TokenId, ...], ...], Meta(min_length=1, max_length=MAX_INPUTS)
    ]
    query: str | None = None
    truncate: bool = False
    """Cut what is longer than the model's context. False: it is an error."""
    field: str = "input"
    """What the inputs are called where they come from, for messages."""
    keep_alive_s: KeepAlive | None = None
    """None: as long as the model's owner wants."""

    n: ClassVar[int] = 1
    """It is answered as one choice."""
    is_background: ClassVar[bool] = False

    def checked(self) -> EmbeddingRequest:
        """This request. Raises InvalidRequest, which names the field that is wrong."""
        request = checked(self)
        texts = [each for each in (*request.inputs, request.query) if isinstance(each, str)]
        if any(0xD800 <= ord(c) < 0xE000 for text in texts if not text.isascii() for c in text):
            message = f"{self.field} contains half a surrogate pair"
            raise InvalidRequest(message, self.field)
        return request

    def place(self, index: int) -> str:
        """What input number *index* is called in messages."""
        return self.field if len(self.inputs) == 1 else f"{self.field}[{index}]"


EngineRequest: TypeAlias = GenerationRequest | EmbeddingRequest
"""Anything that an engine may be asked."""

decoder_of(EmbeddingRequest)  # convert() also looks up the fields, and in any thread
