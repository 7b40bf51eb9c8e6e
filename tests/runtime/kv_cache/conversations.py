"""Conversations on a backend, as the scheduler serves them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from spillover.runtime.backend import Backend, Logits, Rows, Tokens
from spillover.runtime.engine import PrefixCounts
from spillover.runtime.kv_cache.cache import KvCache, KvCacheOptions
from spillover.runtime.kv_cache.prefix_disk import PrefixDiskOptions
from spillover.runtime.machine.device import available_memory

SAVED_BYTES = 1 << 20


class Conversations:
    """Answers one prompt after the other, as the scheduler does."""

    def __init__(
        self,
        backend: Backend,
        *,
        n_kept: int = 2,
        saved_bytes: int = SAVED_BYTES,
        free_bytes: Callable[[], int] = available_memory,
        disk: PrefixDiskOptions | None = None,
    ) -> None:
        self._backend = backend
        for seq in range(backend.info.n_seq):
            backend.keep(seq, 0)
        options = KvCacheOptions(n_kept=n_kept, saved_bytes=saved_bytes, disk=disk)
        self._woken = threading.Event()
        self._kv = KvCache(backend, options, free_bytes, self._woken.set)
        self._live: list[tuple[int, Tokens]] = []
        self.n_held = 0
        """Tokens that the last prompt did not read."""

    def run(self, prompt: Tokens) -> None:
        """Begin an answer that goes on beside the others, a token for each of theirs."""
        placed = self._kv.place(prompt, 64, [])
        assert placed is not None
        self._read(placed[0], prompt, placed[1], 64)
        self._live = [(placed[0], prompt)]

    def go_on(self) -> tuple[Tokens, Logits] | None:
        """The next token of that answer: its text so far, and the logits after it."""
        if not self._live:
            return None
        seq, tokens = self._live[0]
        tokens = np.append(tokens, text(len(tokens) + 1, salt=8)[-1:])
        self._live = [(seq, tokens)]
        return tokens, self._read(seq, tokens, len(tokens) - 1, 1)

    @property
    def counts(self) -> PrefixCounts:
        return self._kv.counts

    def answer(
        self, prompt: Tokens, n_answer: int = 8, slices: int = 64, n_preamble: int = 0
    ) -> Logits:
        """The logits after *prompt*, whose answer has *n_answer* tokens."""
        while self._kv.fetch(prompt, self._live):
            self.wait()
        seq = self._place(prompt, n_answer + 1)
        for _ in range(3):
            self._kv.save_part()
        logits = self._read(seq, prompt, self.n_held, slices)
        tokens = np.append(prompt, text(n_answer, salt=9))
        for position in range(len(prompt), len(tokens)):
            self.go_on()
            self._read(seq, tokens[: position + 1], position, 1)
        self._kv.release(seq, tokens, n_preamble, in_parts=bool(self._live))
        return logits

    def _place(self, prompt: Tokens, reserve: int) -> int:
        """In parts, between which the answer beside it goes on."""
        in_parts = bool(self._live)
        while (placed := self._kv.place(prompt, reserve, self._live, in_parts=in_parts)) is None:
            assert self._kv.is_making_room
            while self._kv.is_making_room:
                self._kv.save_part()
                self.go_on()
        seq, self.n_held = placed
        while self._kv.is_filled(seq):
            self.n_held = self._kv.fill_part(seq, prompt, self._live)
            self.go_on()
        return seq

    def cold(self, prompt: Tokens) -> Logits:
        """The same with nothing to begin with."""
        assert self._kv.make_room(len(prompt))
        (seq,) = self._kv.take_ids(1)
        logits = self._read(seq, prompt, 0, 64)
        self._kv.drop(seq)
        return logits

    def save_all_parts(self) -> None:
        """Until nothing is left that should leave the KV cache or be written."""
        while self._kv.save_part():
            self.go_on()

    def wait_for_files(self, n: int) -> None:
        """Until so many states have been written."""
        while self.counts.n_written < n:
            self.wait()

    def forget(self) -> None:
        """Keep nothing in memory of what was said."""
        self._kv.take_news()
        while self._kv.evict_one():
            pass
        self._kv._saved.reclaim(1 << 40)

    def end_disk_threads(self) -> None:
        """As the end of the interpreter does."""
        disk = self._kv._disk
        assert disk is not None
        for pool in (disk._reader, disk._writer):
            pool.shutdown()

    def wait(self) -> None:
        """Until a thread has moved something between memory and disk."""
        assert self._woken.wait(60)
        self._woken.clear()
        self._kv.take_news()

    def close(self) -> None:
        self._kv.close()

    def _read(self, seq: int, tokens: Tokens, start: int, slices: int) -> Logits:
        for first in range(start, len(tokens), slices):
            part = tokens[first : first + slices]
            assert self._kv.make_room(len(part))
            self._backend.decode([Rows(seq, first, part, first + len(part) == len(tokens))])
            self._kv.extend(seq, len(part))
        return self._backend.logits(0).copy()


def text(n: int, salt: int) -> Tokens:
    return np.random.RandomState(salt).randint(2, 96, n).astype(np.int32)


def same(a: Logits, b: Logits) -> bool:
    """But for the rounding of slices of other sizes: a wrong position makes much more."""
    return float(np.abs(a - b).max()) < 0.05 * float(a.std())
