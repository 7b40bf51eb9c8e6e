"""A second context that reads prompts: beside the answers, or with another layout of the weights.

A llama.cpp context makes one call at a time, and a call that reads many tokens holds up all others.
So prompts are read in a context of their own, whose new KV cells are then copied to the main one,
at ten to thirty microseconds per token. The main context always holds everything that has been
read; this one only what comes before the tokens that it reads next.

Its weights are those of the main context, or a second copy in the layout of the file: llama.cpp
repacks weights so that decoding, which multiplies them by few rows, is fast, and its fastest
kernels for many rows need the file's own layout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from spillover.runtime.backend import NO_MEMORY, KvFull, Rows, SavedKv
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.model import LlamaModel

N_CELLS = 4096
"""KV cells that a second layout keeps at most: the deeper in a text, the less the layout of the
weights matters."""

_FIRST_CELLS = 1024
"""KV cells at first; their number doubles when more are needed."""

_LEAST_ROWS = 32
"""The kernels for decoding read fewer rows just as fast."""

_MOST_FETCHED = 16
"""How many cells are worth fetching from the main context for each token that a better layout
reads."""


NO_ROOM = (KvFull, ModelError, *NO_MEMORY)
"""What ends a read that decode() can make instead."""


class Reading(Struct):
    """A batch, and what the context needs before it."""

    batch: Sequence[Rows]
    """Empty where more cells have to be fetched first."""
    dropped: list[int]
    """Sequences whose cells are of no use any more."""
    fetched: list[tuple[int, int, int, SavedKv]]
    """The cells of a sequence from a position on to another one."""
    n_cells: int
    """Cells that are needed in all."""


class Read(Struct, frozen=True):
    """The rows of the outputs of a batch, and its new cells, one part for each of its rows."""

    outputs: list[int]
    parts: list[SavedKv]


class HeldFlag(AbortFlag):
    """Stays raised until the next batch is prepared, so that an abort is not lost that comes while
    the thread that reads is only about to start."""

    def lower(self) -> None:
        pass

    def reset(self) -> None:
        super().lower()


class PrefillContext:
    """Owns its context, which is made when it is needed, but not the model.

    run() may be called in another thread; until it has returned, only keep() and abort() may be
    called.
    """

    def __init__(self, model: LlamaModel, config: LlamaConfig, n_kept: int = 0) -> None:
        """*n_kept*: the largest KV cache to keep while nothing is read."""
        self._model = model
        self._config = config
        self._n_kept = n_kept
        self._flag = HeldFlag()
        self._context: LlamaContext | None = None
        self._held: dict[int, int] = {}  # by sequence: how many of its first tokens are here
        self._valid: dict[int, int] = {}  # how many of them it still begins with
        self.n_threads = config.n_threads

    @property
    def handle(self) -> Any:
        """The native context, which holds the outputs of the last batch."""
        assert self._context is not None, "it has read a batch"
        return self._context.handle

    @property
    def n_cells(self) -> int:
        """The size of its KV cache now."""
        return self._context.n_kv if self._context else 0

    def n_cells_for(self, batch: Sequence[Rows]) -> int:
        """The size of the KV cache that reading *batch* takes."""
        n = max(sum(rows.start + len(rows.tokens) for rows in batch), _FIRST_CELLS)
        return min(1 << (n - 1).bit_length(), max(self._config.n_kv, n))

    def reads_faster(self, batch: Sequence[Rows]) -> bool:
        """Whether another layout of the weights helps: there are enough prompt tokens, no decode
        rows, and not much to fetch."""
        n_rows = sum(len(rows.tokens) for rows in batch)
        if n_rows < _LEAST_ROWS or any(len(rows.tokens) == 1 for rows in batch):
            return False
        n_missing = sum(max(rows.start - self._valid.get(rows.seq, 0), 0) for rows in batch)
        n_cells = sum(rows.start + len(rows.tokens) for rows in batch)
        return n_cells <= N_CELLS and n_missing <= _MOST_FETCHED * n_rows

    def read(self, batch: Sequence[Rows], main: LlamaContext) -> list[int] | None:
        """Evaluate *batch* and copy its new cells to *main*; return the rows of the outputs, which
        are here. Return None, with nothing read, when there is no room here.

        Raises KvFull when *main* has no room, DecodeAborted, DecodeFailed.
        """
        try:
            reading = self.prepare(batch, main)
            read = self.run(reading)
        except NO_ROOM:
            self.close()
            return None
        except BaseException:
            self.close()
            raise
        self.hand_over(reading, read, main, [rows.seq for rows in batch])
        return read.outputs

    # --- the three parts of a read ----------------------------------------------------------

    def prepare(
        self, batch: Sequence[Rows], main: LlamaContext, n_most: int | None = None
    ) -> Reading:
        """Copy from *main* what comes before *batch* and is not here. Where that is more than
        *n_most* cells, only these are fetched, and nothing is read yet."""
        self._flag.reset()
        n_left = sum(rows.start for rows in batch) if n_most is None else n_most
        fetched, is_ready = [], True
        for rows in batch:
            valid = self.keep(rows.seq, rows.start)
            end = min(valid + n_left, rows.start)
            if not main.can_save(rows.seq, valid, end):
                valid = self._valid[rows.seq] = 0  # a window has lost some: only all can be
                end = rows.start
            if valid < end:
                fetched.append((rows.seq, valid, end, main.save(rows.seq, valid, end)))
            n_left = max(n_left - (end - valid), 0)
            is_ready = is_ready and end == rows.start
        n_cells = self.n_cells_for(batch)
        # Prompts that are read in turns keep their cells while there is room for all.
        n_others = sum(self._valid.values()) - sum(self._valid.get(rows.seq, 0) for rows in batch)
        if n_others + sum(rows.start + len(rows.tokens) for rows in batch) > n_cells:
            present = {rows.seq for rows in batch}
            self._valid = {seq: n for seq, n in self._valid.items() if seq in present}
        dropped = [seq for seq, n in self._held.items() if self._valid.get(seq, 0) < n]
        for seq, _, end, _ in fetched:
            self._valid[seq] = end
        for rows in batch if is_ready else ():
            self._valid[rows.seq] = rows.start + len(rows.tokens)
        return Reading(batch if is_ready else (), dropped, fetched, n_cells)

    def run(self, reading: Reading) -> Read:
        """Evaluate a batch. After an exception nothing else may be called but close().

        Raises KvFull, DecodeAborted, DecodeFailed, ModelError, and NO_MEMORY.
        """
        context = self._with_cells(reading.n_cells, reading.dropped)
        context.set_threads(self.n_threads)
        for seq, start, end, part in reading.fetched:
            if not context.append(seq, start, end, part):
                raise KvFull
            self._held[seq] = end
        reading.fetched.clear()
        if not reading.batch:
            return Read([], [])
        outputs = context.decode(reading.batch)
        parts = []
        for rows in reading.batch:
            end = rows.start + len(rows.tokens)
            parts.append(context.save(rows.seq, rows.start, end))
            self._held[rows.seq] = end
        return Read(outputs, parts)

    def hand_over(
        self, reading: Reading, read: Read, main: LlamaContext, wanted: Collection[int]
    ) -> None:
        """Add what was read of the *wanted* sequences to *main*. Raises KvFull, with *main* as it
        was, when it has no room."""
        batch = reading.batch
        for rows, part in zip(batch, read.parts, strict=True):
            end = rows.start + len(rows.tokens)
            if rows.seq in wanted and not main.append(rows.seq, rows.start, end, part):
                for done in batch:
                    if done.seq in wanted:
                        main.keep(done.seq, done.start)
                self.close()
                raise KvFull
        for rows in batch:
            if rows.wants_logits:
                self.keep(rows.seq, 0)  # the prompt has been read; others need not look past it

    # --- what is held -----------------------------------------------------------------------

    def keep(self, seq: int, n_tokens: int) -> int:
        """Note that *seq* only begins with the first *n_tokens* of what it was; how many of them
        are held. A sequence that was cut is fetched anew: a window may have lost its beginning."""
        valid = self._valid.get(seq, 0)
        if valid > n_tokens:
            valid = self._valid[seq] = 0
        return valid

    def _with_cells(self, n_cells: int, dropped: list[int]) -> LlamaContext:
        """The context without the *dropped* sequences, enlarged if it has too few cells."""
        context = self._context
        for seq in dropped:
            del self._held[seq]
            if context is not None:
                context.keep(seq, 0)
        if context is not None and context.n_kv >= n_cells:
            return context
        config = replace(self._config, n_kv=n_cells)
        larger = LlamaContext(self._model, config, self._flag, may_fill_lazily=False)
        if context is not None:
            try:
                _copy_all(context, larger, self._held)
            except BaseException:
                larger.close()
                raise
            context.close()
        self._context = larger
        return larger

    def abort(self) -> None:
        """Make run() end soon. Any thread may call it."""
        self._flag.raise_()

    def rest(self) -> None:
        """Nothing will be read for a while: give memory back."""
        if self.n_cells > self._n_kept:
            self.close()

    def close(self) -> None:
        """Hold nothing, and give the memory back. It may be used again."""
        self._held.clear()
        self._valid.clear()
        if self._context is not None:
            self._context.close()
            self._context = None


def _copy_all(source: LlamaContext, target: LlamaContext, held: dict[int, int]) -> None:
    """Copy the first tokens of each sequence. Raises KvFull."""
    for seq, n in held.items():
        if not target.append(seq, 0, n, source.save(seq, 0, n)):
            raise KvFull
