"""What exports and quantizations take of memory, and how long they take:

    python -m tests.benchmarks.export_memory FOLDER [--only NAME …] [--repeat N]

FOLDER gets models of Qwen2.5-0.5B's shape with random weights, which stay for the next run, and new
files, which do not. Memory is what the whole tree of processes holds beside the page cache
(RssAnon and RssShmem of /proc/PID/status), looked at every 10 ms; mapped files are counted apart
(RssFile), as the system takes their pages back when it needs them. The bound is 1.3 times the
largest tensor, as it is stored in the source, and 300 MB. A line of JSON for each: medians with
smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from tests.benchmarks import random_hf

_ALLOWED = 300e6
_ROUND_S = 0.01
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "export gguf": ("export", "gguf", "{hf}", "{new}"),
    "export gguf --type Q8_0": ("export", "gguf", "{hf}", "{new}", "--type", "Q8_0"),
    "quantize run Q8_0": ("quantize", "run", "{f16}", "{new}", "--type", "Q8_0", "--no-check"),
    "quantize run Q4_K_M": ("quantize", "run", "{f16}", "{new}", "--no-check"),
    "quantize run Q4_K_M with its check": ("quantize", "run", "{f16}", "{new}"),
    "export onnx int4": ("export", "onnx", "{hf}", "{new}", "--weights", "int4", "--no-check"),
    "export onnx int8": ("export", "onnx", "{f16}", "{new}", "--weights", "int8", "--no-check"),
    "export onnx int4 with its check": ("export", "onnx", "{hf}", "{new}", "--weights", "int4"),
}


class Taken(NamedTuple):
    """By one run."""

    seconds: float
    own_bytes: int
    mapped_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=list(_ARGUMENTS), choices=list(_ARGUMENTS))
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    folder: Path = given.folder
    places = {"hf": folder / "random-0.5b-hf", "f16": folder / "random-0.5b-F16.gguf"}
    if not places["hf"].exists():
        random_hf.write_hf(places["hf"])
    if not places["f16"].exists():
        run_spillover("export", "gguf", str(places["hf"]), str(places["f16"]))
    largest = 2 * random_hf.N_VOCAB * random_hf.N_HIDDEN
    for name in given.only:
        taken = []
        for _ in range(given.repeat):
            new = folder / "new"
            words = [word.format(**places, new=new) for word in _ARGUMENTS[name]]
            taken.append(run_spillover(*words))
            shutil.rmtree(new) if new.is_dir() else new.unlink()
        columns = [sorted(column) for column in zip(*taken, strict=True)]
        digits = (1, 0, 0)
        figures = {
            figure: [round(found / (1 if figure == "s" else 1e6), n) for found in summed(column)]
            for figure, n, column in zip(("s", "own_mb", "mapped_mb"), digits, columns, strict=True)
        }
        bound = math.ceil((1.3 * largest + _ALLOWED) / 1e6)
        print(json.dumps({"what": name, **figures, "bound_mb": bound}), flush=True)


def summed(column: Sequence[float]) -> tuple[float, float, float]:
    return median(column), column[0], column[-1]


def run_spillover(*arguments: str) -> Taken:
    """Run the command, and watch what its processes hold."""
    program = Path(sys.executable).with_name("spillover")
    began = time.perf_counter()
    with subprocess.Popen(
        [str(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        watch = Watch(process.pid)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{said}")
    return Taken(time.perf_counter() - began, *watch.end())


class Watch:
    """The most that a process and its descendants hold, from now on."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._most = [0, 0]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_again, daemon=True)
        self._thread.start()

    def end(self) -> tuple[int, int]:
        """Bytes of their own, and of mapped files."""
        self._is_over.set()
        self._thread.join()
        return self._most[0], self._most[1]

    def _look_again(self) -> None:
        while not self._is_over.wait(_ROUND_S):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                continue
            held = [held_by(process.pid) for process in family]
            sums = (sum(column) for column in zip(*held, strict=True))
            self._most = [max(pair) for pair in zip(self._most, sums, strict=True)]


def held_by(pid: int) -> tuple[int, int]:
    """Bytes of the process's own, and of mapped files; none once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if "kB" in line}
    own = found.get("RssAnon", 0) + found.get("RssShmem", 0)
    return own, found.get("RssFile", 0)


if __name__ == "__main__":
    main()
