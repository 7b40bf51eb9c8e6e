"""How fast memory is read: what limits the tokens per second of a model that is larger than the
processor's caches."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_N_BYTES = 64 << 20
"""More than the caches of small processors hold."""

_N_ROUNDS = 3


def measure_bandwidth(clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second that one thread reads, in the fastest of a few rounds; takes some 50 ms."""
    values = np.ones(_N_BYTES // 8, dtype=np.float64)
    fastest_s = float("inf")
    for _ in range(_N_ROUNDS):
        started = clock()
        values.sum()
        fastest_s = min(fastest_s, clock() - started)
    return _N_BYTES / max(fastest_s, 1e-9)
