"""One loaded model as the scheduler sees it. GGUF and ONNX implement it alike."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.sampling import Sampling

Tokens: TypeAlias = npt.NDArray[np.int32]
Logits: TypeAlias = npt.NDArray[np.float32]


class KvFull(Exception):
    """The batch found no room in the KV cache; nothing was changed."""


class DecodeAborted(Exception):
    """abort() ended the call; the sequences of the batch must be dropped."""


class DecodeFailed(Exception):
    """The library could not evaluate the batch; the context is no longer trusted."""


class BackendInfo(Struct, frozen=True, kw_only=True):
    """Facts of a loaded model and its context."""

    architecture: str
    description: str
    n_params: int
    size_bytes: int
    n_vocab: int
    n_ctx_train: int
    n_kv: int
    """KV cells shared by all sequences."""
    n_seq: int
    """Sequence ids are 0 … n_seq - 1."""
    n_batch: int
    """Most rows of one decode call."""
    n_outputs: int
    """Most rows of one decode call whose logits are wanted."""
    chat_template: str | None
    bos_text: str
    eos_text: str
    add_bos: bool
    """The tokenizer puts the BOS token in front of a text."""


class Sampler(Protocol):
    """Chooses one token after the other for one sequence; keeps its penalties' window."""

    def sample(self, logits: Logits, position: int) -> int:
        """Choose the token number *position* of the answer (0: its first) and remember it.

        The random draw depends on the seed and *position* alone. May change *logits*.
        """
        ...

    def accept(self, token: int) -> None:
        """Remember a token that was chosen elsewhere: the prompt's, or before a restart."""
        ...

    def close(self) -> None: ...


class Rows(Struct, frozen=True, kw_only=True):
    """Consecutive tokens of one sequence, a part of a ragged batch."""

    seq: int
    start: int
    """Position of the first token in the sequence."""
    tokens: Tokens
    wants_logits: bool
    """Whether the last row's logits are needed."""


class Backend(Protocol):
    """A model, its tokenizer and its KV cache.

    tokenize, token_bytes and is_eog may be called from any thread, abort too; everything else
    only from the thread that decodes.
    """

    @property
    def info(self) -> BackendInfo: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens: ...
    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; control tokens are empty unless *special*."""
        ...

    def is_eog(self, token: int) -> bool:
        """Whether the token ends an answer."""
        ...

    def sampler(self, sampling: Sampling, seed: int, *, ignore_eos: bool) -> Sampler: ...

    def decode(self, rows: list[Rows]) -> list[Logits]:
        """Evaluate a batch; the logits (n_vocab,) of those rows that want them, in order.

        The arrays are views that the next call overwrites. Raises KvFull, DecodeAborted,
        DecodeFailed.
        """
        ...

    def keep(self, seq: int, n_tokens: int) -> int:
        """Drop what *seq* has past its first *n_tokens*; how many it keeps, which may be fewer
        when the model's memory cannot be cut there."""
        ...

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Share the first *n_tokens* of *source* with the empty *target*; how many it has now."""
        ...

    def abort(self) -> None:
        """End the decode call that is running now, if one is, soon."""
        ...

    def close(self) -> None: ...


SliceKind: TypeAlias = Literal["pure", "mixed"]
"""Whether a prefill slice runs in a call of its own or together with the decode rows."""
