"""The contexts that read prompts: on the weights of the main one, and on a second layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from spillover.runtime.backend import Rows
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.llama.prefill.context import N_CELLS, PrefillContext

MEMORY_TO_KEEP = 1.1
"""The second layout is dropped when less memory is free than this factor of the model's size. Its
pages count as free: with less than that they would be read from the disk again and again."""

COMPUTE_BYTES = 64 * 2**20
"""Allowance for the compute buffers of a context."""


class PrefillContexts:
    """Chooses the context that reads a batch, as memory allows. Owns the second layout."""

    def __init__(
        self, path: Path, model: LlamaModel, config: LlamaConfig, free_bytes: Callable[[], int]
    ) -> None:
        self._path = path
        self._model = model
        self._config = config
        self._free_bytes = free_bytes
        self._n_threads = config.n_threads
        self._same = PrefillContext(model, config)
        self._apart: PrefillContext | None = None
        self._second: LlamaModel | None = None

    @property
    def has_second_layout(self) -> bool:
        return self._apart is not None

    def load_second_layout(self) -> None:
        """Raises ModelError when it cannot be loaded."""
        if self._apart is None:
            self._second = LlamaModel(self._path, n_gpu_layers=0, use_extra_bufts=False)
            self._apart = PrefillContext(self._second, self._config, n_kept=N_CELLS)
            self._apart.n_threads = self._n_threads

    def drop_second_layout(self) -> None:
        if self._apart is not None and self._second is not None:
            self._apart.close()
            self._second.close()
            self._apart = self._second = None

    def for_call(self, batch: Sequence[Rows]) -> PrefillContext | None:
        """The context that reads *batch* faster than the main one in a call of its own."""
        if self._apart is None or not self._apart.reads_faster(batch):
            return None
        self._look_at_memory()
        return self._apart

    def for_thread(self, batch: Sequence[Rows]) -> PrefillContext | None:
        """The context that reads *batch* beside the main one; None without memory for it."""
        self._look_at_memory()
        prefill = self._apart or self._same
        n_cells = prefill.n_cells_for(batch)
        if n_cells <= prefill.n_cells:
            return prefill
        # While it is enlarged, the cells that it has are there twice.
        n_bytes = 2 * n_cells * self._config.kv_bytes_per_cell + COMPUTE_BYTES
        return prefill if n_bytes <= self._free_bytes() else None

    def _look_at_memory(self) -> None:
        """Drop the second layout when memory has become scarce."""
        if self._second is not None and self._free_bytes() < MEMORY_TO_KEEP * self._second.n_bytes:
            self.drop_second_layout()

    @property
    def _all(self) -> list[PrefillContext]:
        return [self._same] if self._apart is None else [self._same, self._apart]

    def set_threads(self, n_threads: int) -> None:
        """Compute with this many threads from the next batch on."""
        self._n_threads = n_threads
        for prefill in self._all:
            prefill.n_threads = n_threads

    def keep(self, seq: int, n_tokens: int) -> None:
        for prefill in self._all:
            prefill.keep(seq, n_tokens)

    def abort(self) -> None:
        """Make what they read end soon. Any thread may call it."""
        for prefill in self._all:
            prefill.abort()

    def close(self) -> None:
        self._same.close()
        self.drop_second_layout()
