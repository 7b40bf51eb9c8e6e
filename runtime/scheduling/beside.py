"""The prompts that are read beside the answers, as the loop sees them."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.backend import PromptReader
from spillover.runtime.scheduling.sequence import Sequence
from spillover.runtime.scheduling.step_plan import Slice, SliceRead, rows_of, with_outputs


class Beside:
    """Gives slices to the backend's reader and takes them back. Belongs to the loop."""

    def __init__(
        self, reader: PromptReader | None, wake: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """*wake* is called in another thread when the reader has finished."""
        self._reader = reader
        self._wake = wake
        self._clock = clock
        self._reads: list[SliceRead] = []
        self._left: set[Sequence] = set()
        self._has_rested = True
        self.ended: float | None = None
        """When the reader ended, while there is something to take."""

    @property
    def can_read(self) -> bool:
        return self._reader is not None

    @property
    def is_reading(self) -> bool:
        """From start() to take()."""
        return bool(self._reads)

    @property
    def has_ended(self) -> bool:
        """Whether there is something to take."""
        return self.ended is not None

    @property
    def n_tokens(self) -> int:
        """Tokens being read of sequences that still need them."""
        return sum(read.n for read in self._reads if read.sequence not in self._left)

    def start(self, slices: list[Slice]) -> bool:
        """Begin to read *slices*; False when there is no memory for it."""
        assert self._reader is not None
        assert not self._reads, "it reads one batch at a time"
        reads = with_outputs(slices, 0)
        self.ended = None
        if not self._reader.start(rows_of(slices), self._on_end):
            return False
        self._reads, self._has_rested = reads, False
        return True

    def _on_end(self) -> None:
        self.ended = self._clock()
        self._wake()

    def drop(self, sequence: Sequence) -> None:
        """*sequence* no longer needs what is being read of it."""
        if any(sequence is read.sequence for read in self._reads):
            self._left.add(sequence)
            if not self.n_tokens:
                self.abort()

    def take(self) -> list[SliceRead]:
        """What was read for sequences that still need it, now in the KV cache. Raises KvFull,
        DecodeAborted, DecodeFailed."""
        assert self._reader is not None
        reads = [read for read in self._reads if read.sequence not in self._left]
        self._reads, self._left, self.ended = [], set(), None
        has_read = self._reader.take([read.sequence.seq for read in reads])
        return reads if has_read else []

    def abort(self) -> None:
        """Make what is being read end soon. Any thread may call it."""
        if self._reader is not None:
            self._reader.abort()

    def rest(self) -> None:
        """No prompt waits to be read beside others."""
        if self._reader is not None and not self._has_rested and not self._reads:
            self._has_rested = True
            self._reader.rest()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
