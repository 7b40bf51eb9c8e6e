"""python -m tests.benchmarks.bare_memory MODEL N_KV: bytes that the process grows by when llama.cpp
loads a model, makes a context of so many KV cells and has read a whole batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil

from spillover.runtime.backend import Rows
from spillover.runtime.llama.library import start_library
from tests.benchmarks.bare_loop import open_backend


def main() -> None:
    start_library()
    process = psutil.Process()
    before = process.memory_info().rss
    backend = open_backend(Path(sys.argv[1]), int(sys.argv[2]))
    for seq in range(2):
        backend.decode([Rows(seq, 0, np.zeros(512, dtype=np.int32), True)])
    print(process.memory_info().rss - before)


if __name__ == "__main__":
    main()
