"""Decides whether a second layout of the weights is worth its memory, measured once per model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from spillover.runtime.backend import DecodeFailed, KvFull, Rows
from spillover.runtime.errors import ModelError
from spillover.runtime.files.json_file import MeasurementStore, fingerprint
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.prefill.context import N_CELLS
from spillover.runtime.machine.device import FreeCores, our_cores, were_taken
from spillover.runtime.options import EngineOptions

_WORTH = 1.15
"""Prompts must be read this much faster."""

_SHARE_OF_FREE_MEMORY = 2 / 3
_COMPUTE_BYTES = 256 * 2**20
"""Allowance for the compute buffers of the second context."""

_SMALLEST_MODEL_BYTES = 64 * 2**20
"""Smaller models read prompts quickly in any case."""

_N_TOKENS = 64
_N_REPEATS = 3
_SLOW_S = 2.0
"""A call that takes this long is not repeated."""


class PrefillTimes(Struct, frozen=True, kw_only=True):
    """Seconds to read the same prompt with the main weights, and with a second layout."""

    main_s: Annotated[float, Meta(gt=0)]
    apart_s: Annotated[float, Meta(gt=0)]

    @property
    def is_worth_it(self) -> bool:
        return self.main_s > _WORTH * self.apart_s


def choose_prefill(
    backend: LlamaBackend,
    options: EngineOptions,
    kv_bytes_per_cell: float,
    free_bytes: int,
    clock: Callable[[], float] = time.perf_counter,
    new_cores: Callable[[], FreeCores | None] = our_cores,
) -> None:
    """Let *backend* read prompts with a second layout of the weights where it should;
    *free_bytes* is what is left after loading."""
    if options.second_layout == "off" or not backend.can_read_apart:
        return
    if options.second_layout == "on":
        backend.read_prompts_apart()
        return
    if not _fits(backend, kv_bytes_per_cell, free_bytes):
        return
    info = backend.info
    facts = (info.description, info.n_params, info.size_bytes, info.library, info.n_threads)
    store = MeasurementStore(options.cache_dir, fingerprint("prefill", *facts), PrefillTimes)
    times = store.read()
    if times is None:
        cores = new_cores()
        times = measure(backend, clock)
        if not were_taken(cores, info.n_threads):  # else the next start measures again
            store.write(times)
    if times.is_worth_it:
        backend.read_prompts_apart()


def _fits(backend: LlamaBackend, kv_bytes_per_cell: float, free_bytes: int) -> bool:
    info = backend.info
    if info.size_bytes < _SMALLEST_MODEL_BYTES:
        return False
    n_bytes = info.size_bytes + min(info.n_kv, N_CELLS) * kv_bytes_per_cell + _COMPUTE_BYTES
    return n_bytes <= _SHARE_OF_FREE_MEMORY * free_bytes


def measure(backend: LlamaBackend, clock: Callable[[], float]) -> PrefillTimes:
    """Measure both ways, each as the shortest of a few calls; *backend* is left as it was. A second
    context that does not work with this model counts as no faster."""
    main_s = _read_s(backend, clock)
    try:
        backend.read_prompts_apart()
        apart_s = _read_s(backend, clock)
    except (ModelError, KvFull, DecodeFailed):
        apart_s = main_s
    finally:
        backend.read_prompts_here()
        backend.keep(0, 0)
    return PrefillTimes(main_s=main_s, apart_s=apart_s)


def _read_s(backend: LlamaBackend, clock: Callable[[], float]) -> float:
    tokens = np.arange(_N_TOKENS, dtype=np.int32) % backend.info.n_vocab
    shortest_s = float("inf")
    for _ in range(_N_REPEATS):
        started = clock()
        backend.decode([Rows(0, 0, tokens, True)])
        backend.logits(0)
        seconds = clock() - started
        # Not timed: checks that the next token can follow what was read.
        backend.decode([Rows(0, _N_TOKENS, tokens[:1], True)])
        backend.keep(0, 0)
        shortest_s = min(shortest_s, seconds)
        if seconds > _SLOW_S:
            break
    return shortest_s
