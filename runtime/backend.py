"""One loaded model as the scheduler sees it. GGUF and ONNX implement it alike."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.runtime.engine import FimTokens
from spillover.runtime.sampling import Sampling

Tokens: TypeAlias = npt.NDArray[np.int32]
Logits: TypeAlias = npt.NDArray[np.float32]
SavedKv: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.uint32]

N_BATCH = 512
"""Most tokens per call; larger calls read no faster on the devices measured."""

N_CHECKED = 16
"""Most proposed tokens in a call that checks them: larger calls take as long per token, and tokens
far ahead are seldom right."""


N_PART = 512
"""Tokens whose KV cells are saved, restored or copied at once while others generate, whom those of
a long conversation would hold up."""

N_DISCARDED = 4096
"""The same where their memory is returned, which takes about a tenth of the time."""

NO_MEMORY = (MemoryError, OSError)
"""What Python raises where the system gives no memory."""


class KvFull(Exception):
    """The KV cache has no room for the batch; nothing was changed."""


class DecodeAborted(Exception):
    """abort() ended the call; the sequences of the batch must be dropped."""


class DecodeFailed(Exception):
    """The library could not evaluate the batch; the context can no longer be trusted."""


class BackendInfo(Struct, frozen=True, kw_only=True):
    """Facts about a loaded model and its context."""

    architecture: str
    description: str
    n_params: int
    size_bytes: int
    draft_model_bytes: int = 0
    """Of the weights of the small model that proposes tokens."""
    n_vocab: int
    n_ctx_train: int
    n_kv: int
    """KV cells shared by all sequences."""
    n_seq: int
    """Sequence ids are 0 … n_seq - 1."""
    n_batch: int
    """Most rows of one decode call."""
    n_outputs: int
    """Most rows of one decode call that may have logits."""
    n_threads: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    add_bos: bool
    """Whether the tokenizer puts the BOS token before a text."""
    use_extra_bufts: bool
    fim: FimTokens | None = None
    library: str
    """Name and version of the library, the key for what is remembered about its speed."""
    device: str = "CPU"
    """The device that computes, for display."""
    shares_cells: bool = True
    """The cells of all sequences are one pool: copy() takes none, and each step looks at all that
    are in use. False: copy() takes as many as it copies tokens."""
    kv_bytes_per_cell: float = 0.0
    """Memory that a KV cell takes when it is first used, a draft model's included. 0: all of
    it was taken at load, or belongs to a device."""
    returns_kv: bool = False
    """Whether cells that become free return their memory to the system."""
    can_check: bool = False
    """Whether decode() gives the logits of all tokens of Rows, in about the time of a step if they
    are few, and keep() cuts any number of tokens off the end. Otherwise wants_all_logits must not
    be set."""
    warnings: tuple[str, ...] = ()
    """Notes for the user about how the model runs."""


def saved_kv(n_bytes: int) -> SavedKv:
    """An array for a state, whose memory returns to the system at once when nothing needs it.
    Raises OSError when the system has none."""
    n = max(n_bytes, 1)
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.frombuffer(mmap.mmap(-1, n), dtype=np.uint8)[:n_bytes]
    # Memory that other processes could share takes a third longer to fill.
    memory = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype=np.uint8)[:n_bytes]


def n_params_text(n_params: int) -> str:
    """A number of parameters for display, such as "0.49B" or "5.8M"."""
    return f"{n_params / 1e9:.2f}B" if n_params >= 1e8 else f"{n_params / 1e6:.1f}M"


class Rows(Struct, frozen=True):
    """Consecutive tokens of one sequence, a part of a ragged batch."""

    seq: int
    start: int
    """Position of the first token in the sequence."""
    tokens: Tokens
    wants_logits: bool
    """Whether the last token's logits are needed."""
    wants_all_logits: bool = False
    """Whether those of the tokens before it are needed, too."""

    @property
    def n_outputs(self) -> int:
        """How many outputs of the call they are."""
        return len(self.tokens) if self.wants_all_logits else int(self.wants_logits)


class Constraint(Protocol):
    """Decides which tokens may come next in one constrained answer."""

    def allows(self, token: int) -> bool:
        """Whether *token* may come next. Cheap, so a sampler may ask before it masks."""
        ...

    def mask(self) -> Mask:
        """The tokens that may come next: bit t % 32 of word t // 32, (ceil(n_vocab / 32),).
        A view that the next call overwrites. Never empty: at the end it holds the EOG tokens."""
        ...

    def accept(self, token: int) -> None:
        """Note that *token* was chosen."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether only the end may follow."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether a limit was exceeded: the answer can no longer satisfy it, and only ends."""
        ...


class Distribution(Struct, frozen=True):
    """Tokens that a sampler had left, and their probabilities: (n,) each, in any order."""

    tokens: npt.NDArray[np.integer[Any]]
    probabilities: npt.NDArray[np.floating[Any]]


def certain(token: int) -> Distribution:
    """Nothing but *token* was left."""
    return Distribution(np.array([token]), np.ones(1))


class Sampler(Protocol):
    """Chooses the tokens of one sequence, one after the other; keeps the window of the
    penalties."""

    def sample(self, output: int, position: int) -> int:
        """Choose token number *position* of the answer (0: its first) from the last decode
        call's *output*, and remember it.

        The random draws depend on the seed and *position* alone.
        """
        ...

    @property
    def distribution(self) -> Distribution:
        """What the last token was drawn from, by a sampler that was made to show it."""
        ...

    def accept(self, tokens: Sequence[int]) -> None:
        """Remember tokens that were chosen elsewhere: the prompt's, or before a restart."""
        ...

    def close(self) -> None: ...


class KvSaver(Protocol):
    """Copies of what a KV cache holds, for the thread that decodes."""

    @property
    def are_cut(self) -> bool:
        """Whether keep() can cut what was restored."""
        ...

    @property
    def saves_parts(self) -> bool:
        """Whether a part takes as much less time to save and to append as it is shorter, and to
        copy where that takes cells."""
        ...

    @property
    def layout(self) -> str:
        """Names what a state depends on besides the model's weights and the library's version."""
        ...

    def can_save(self, seq: int, start: int, end: int) -> bool:
        """Whether the positions *start* to *end* - 1 of *seq* can be saved apart from others. All
        that it holds can be."""
        ...

    def saved_bytes(self, seq: int, start: int, end: int) -> int:
        """How large save() would be."""
        ...

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        """A copy of these positions, if can_save()."""
        ...

    def append(self, seq: int, start: int, end: int, state: SavedKv) -> bool:
        """Add the saved state of the positions *start* to *end* - 1 to *seq*, which ends at
        *start*. Return False and change nothing when there is no room, or when it is not the state
        of these."""
        ...


class PromptReader(Protocol):
    """Reads prompts in a thread of its own, one batch at a time, while decode() serves others.

    abort() may be called from any thread, everything else only from the one that decodes.
    """

    @property
    def is_busy(self) -> bool:
        """Whether a batch was started and not taken yet."""
        ...

    def start(self, batch: Sequence[Rows], on_end: Callable[[], None]) -> bool:
        """Begin to read a batch. *on_end* is called in another thread when it ends, in whatever
        way. False: there is no memory for it, so decode() must read it."""
        ...

    def take(self, wanted: Collection[int]) -> bool:
        """Wait for the batch, and put what was read of the *wanted* sequences into the KV cache.
        Its outputs, those of all its Rows that want logits, replace those of the last call.

        Return False, with nothing changed, when it could not be read here after all, or when more
        of what comes before it has to be copied first.
        Raises KvFull, DecodeAborted, DecodeFailed.
        """
        ...

    def abort(self) -> None:
        """Make the batch end soon."""
        ...

    def rest(self) -> None:
        """Nothing will be read for a while: give memory back."""
        ...

    def close(self) -> None:
        """End the thread and what it reads."""
        ...


class DraftModel(Protocol):
    """A small model that proposes tokens for a backend's own. For the thread that decodes."""

    def n_unread(self, seq: int, tokens: Tokens) -> int:
        """How many *tokens* of a sequence it must read before it can propose what follows."""
        ...

    def has_room(self, n_tokens: int, seqs: Collection[int]) -> bool:
        """Whether so many more tokens fit beside what it has read of *seqs*. It forgets others for
        them."""
        ...

    def read(self, seq: int, tokens: Tokens, n: int) -> None:
        """Read the next *n* of *tokens* that it has not read. Raises as propose()."""
        ...

    def propose(self, texts: Sequence[tuple[int, Tokens]], n: int) -> list[list[int]]:
        """For each text, under the id of its sequence, the *n* tokens that may come next. All are
        read. Raises KvFull, DecodeAborted, DecodeFailed, and has forgotten all texts then."""
        ...


class Vocabulary(Protocol):
    """A model's tokens. Any thread may use it."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens: ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for control tokens."""
        ...


class Backend(Vocabulary, Protocol):
    """A model, its tokenizer and its KV cache.

    tokenize, token_bytes, control_text, is_eog and abort may be called from any thread; everything
    else only from the one that decodes.
    """

    @property
    def info(self) -> BackendInfo: ...

    def control_text(self, token: int) -> str:
        """How a control token is written; empty for a token without a name."""
        ...

    def is_eog(self, token: int) -> bool:
        """Whether the token ends an answer."""
        ...

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        ignore_eos: bool,
        constraint: Constraint | None = None,
        shows_distribution: bool = False,
    ) -> Sampler:
        """With a *constraint*, only tokens that it allows are sampled, and it accepts each of
        them."""
        ...

    def decode(self, batch: Sequence[Rows]) -> None:
        """Evaluate a batch. The tokens whose logits are wanted are its outputs 0, 1, … in order.

        Raises KvFull, DecodeAborted, DecodeFailed.
        """
        ...

    def logits(self, output: int) -> Logits:
        """Raw logits (n_vocab,) of an output of the last call: a view the next call overwrites."""
        ...

    def save_power(self, *, is_on: bool) -> None:
        """Compute with half of the threads from the next call on, or with all again, where the
        library can change that."""
        ...

    def keep(self, seq: int, n_tokens: int) -> int:
        """Drop what *seq* has past its first *n_tokens*. Return how many it keeps, which may be
        fewer when the model's memory cannot be cut there."""
        ...

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        """Share the first *n_tokens* of *source* with *target*, which is empty or, where that takes
        cells, begins with fewer of them. Return how many it has now."""
        ...

    @property
    def saver(self) -> KvSaver | None:
        """None where nothing can be saved."""
        ...

    @property
    def reader(self) -> PromptReader | None:
        """None where prompts are only read by decode()."""
        ...

    @property
    def draft_model(self) -> DraftModel | None:
        """None where only the text itself proposes tokens."""
        ...

    def abort(self) -> None:
        """Make the running decode call, if there is one, end soon."""
        ...

    def close(self) -> None: ...
