"""A model that turns texts into vectors or scores, as its loop sees it. GGUF and ONNX implement it
alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.backend import Tokens
from spillover.runtime.engine import EmbeddingCard

Vector: TypeAlias = npt.NDArray[np.float32]


class TokenizedInput(Struct, frozen=True):
    """An input as the model reads it: (n_tokens,) ids, and where the model tells a query from a
    document also the segment of each, 0 or 1."""

    tokens: Tokens
    segments: Tokens | None = None


class InputPart(Struct, frozen=True, kw_only=True):
    """Consecutive tokens of one input in a call."""

    slot: int
    """Names the input while it is read: 0 … n_slots - 1."""
    start: int
    tokens: Tokens
    segments: Tokens | None = None
    is_last: bool
    """The input ends here."""


class Embedder(Protocol):
    """tokenize, tokenize_pair and abort may be called from any thread; everything else only from
    the one that computes."""

    @property
    def card(self) -> EmbeddingCard: ...

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_slots(self) -> int:
        """Most inputs of a call."""
        ...

    @property
    def n_batch(self) -> int:
        """Most tokens of a call; padding counts where *is_padded*. A longer input that is read
        whole has a call of its own."""
        ...

    @property
    def is_sliced(self) -> bool:
        """An input may be read in several calls. Otherwise each call reads whole inputs."""
        ...

    @property
    def is_padded(self) -> bool:
        """Each input of a call costs as much as the longest one."""
        ...

    @property
    def room(self) -> int:
        """Tokens that the inputs being read may have, together where they are sliced."""
        ...

    def tokenize(self, text: str, *, truncate: bool) -> TokenizedInput:
        """With the model's special tokens around it. *truncate*: at most card.n_ctx tokens, the
        special ones among them."""
        ...

    def tokenize_pair(self, query: str, document: str, *, truncate: bool) -> TokenizedInput:
        """A query and a document as a model that ranks reads them; only the document is cut."""
        ...

    def make_room(self, n_tokens: int) -> None:
        """Make *room* for an input of *n_tokens*, while none is being read. Raises ModelError when
        there is no memory for it."""
        ...

    def run(self, parts: Sequence[InputPart]) -> list[Vector]:
        """The vectors (n_values,) of the parts that end their input, in order.

        Raises DecodeAborted, after which all inputs of the call are forgotten, and DecodeFailed.
        """
        ...

    def forget(self, slot: int) -> None:
        """Drop an input that is partly read."""
        ...

    def abort(self) -> None:
        """Make the running call, if there is one, end soon."""
        ...

    def close(self) -> None: ...
