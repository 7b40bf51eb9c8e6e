"""Decides how many threads a small model computes with, measured once per model.

llama.cpp's threads meet after every operation. A step of a small model has hundreds of operations
of a few microseconds each, which many threads spend on waiting for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from spillover.runtime.backend import DecodeFailed, Rows
from spillover.runtime.files.json_file import MeasurementStore, fingerprint
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.thread_governor import WINDOW_S, Cores
from spillover.runtime.machine.device import SLACK_CORES, OurCores
from spillover.runtime.options import EngineOptions

_WORTH = 1.1
"""Fewer threads must make a step this much faster."""

_LARGEST_MODEL_BYTES = 512 * 2**20
"""Each operation of a larger model keeps many threads busy."""

_N_STEPS = 8
_N_ROUNDS = 2
_MOST_S = 1.0
"""Begins no further count of threads after this long. The largest comes first, which is the right
one where steps are slow."""

_LOOK_S = 0.15
"""Seconds in which other programs are looked for."""

_TOKEN = np.zeros(1, dtype=np.int32)


class ThreadChoice(Struct, frozen=True, kw_only=True):
    """The number of threads with the fastest steps."""

    n_threads: Annotated[int, Meta(ge=1, le=512)]


def choose_threads(
    backend: LlamaBackend,
    options: EngineOptions,
    clock: Callable[[], float] = time.perf_counter,
    cores: Cores | None = None,
) -> None:
    """Let *backend* compute with fewer threads where that is faster, unless the user has decided.
    Its KV cache is empty before and after."""
    info = backend.info
    is_open = options.n_threads is None and options.adapt_threads and not backend.uses_gpu
    if not is_open or info.n_threads == 1 or info.size_bytes > _LARGEST_MODEL_BYTES:
        return
    facts = (info.description, info.n_params, info.size_bytes, info.library, info.n_threads)
    store = MeasurementStore(options.cache_dir, fingerprint("threads", *facts), ThreadChoice)
    choice = store.read()
    if choice is None:
        choice = measure(backend, clock, cores)
        if choice is not None:
            store.write(choice)
    if choice is not None:
        backend.limit_threads(min(choice.n_threads, info.n_threads))


def measure(
    backend: LlamaBackend, clock: Callable[[], float], cores: Cores | None = None
) -> ThreadChoice | None:
    """Measure steps with all threads, half of them, and so on; None when other programs disturbed
    it. *backend* is left as it was."""
    n_most = backend.info.n_threads
    counts = [n_most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    step_s: dict[int, float] = {}
    ends = clock() + _MOST_S
    n_first = 1  # unless the cores turn out to be ours
    try:
        if not _are_free(n_most, backend, cores or OurCores(), clock):
            return None
        for n in counts * _N_ROUNDS:
            seconds = _step(backend, n, clock)
            if seconds is None:
                return None
            step_s[n] = min(seconds, step_s.get(n, seconds))
            if clock() > ends:
                break
        n_first = n_most
    except (DecodeFailed, OSError):
        return None  # the self-test finds it, too; Android does not show how busy its cores are
    finally:
        backend.keep(0, 0)
        backend.limit_threads(n_most, n_first)
    return ThreadChoice(n_threads=_fastest(step_s))


def _are_free(
    n_cores: int, backend: LlamaBackend, cores: Cores, clock: Callable[[], float]
) -> bool:
    """Whether other programs leave us so many cores, while one thread computes: with a core too few
    a single step may take seconds."""
    backend.limit_threads(1)
    ends = clock() + _LOOK_S
    while clock() < ends:
        backend.decode([Rows(0, 0, _TOKEN, True)])
        backend.keep(0, 0)
    return cores.free() >= n_cores - SLACK_CORES


def _fastest(step_s: dict[int, float]) -> int:
    """The count with the fastest steps; a smaller one only if it is clearly faster."""
    best, *others = sorted(step_s, reverse=True)
    for n in others:
        if step_s[n] * _WORTH < step_s[best]:
            best = n
    return best


def _step(backend: LlamaBackend, n_threads: int, clock: Callable[[], float]) -> float | None:
    """Seconds of a step with so many threads; None when other programs used their cores."""
    backend.limit_threads(n_threads)
    backend.decode([Rows(0, 0, _TOKEN, True)])  # starts the threads
    seconds = []
    began, used_s = clock(), time.process_time()
    for position in range(1, 1 + _N_STEPS):
        started = clock()
        backend.decode([Rows(0, position, _TOKEN, True)])
        ended = clock()
        seconds.append(ended - started)
        n_cores = (time.process_time() - used_s) / (ended - began)
        if n_cores < n_threads - SLACK_CORES and ended - began > WINDOW_S:
            return None
    backend.keep(0, 0)
    return median(seconds)
