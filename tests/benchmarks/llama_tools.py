"""Compares `spillover quantize` with llama.cpp's own tools, on one file and one text:

    python -m tests.benchmarks.llama_tools --tools build/bin MODEL-F16.gguf TEXT [--type Q4_K_M …]

imatrix: the largest difference of a matrix's sums. quantize: tensors whose bytes differ, and the
time. eval: the measures side by side, with the errors that llama-perplexity gives, and the time.
What is compared runs in turns. Times are medians of --repeat runs, with smallest and largest: until
the program has ended, which other programs on the machine lengthen, and those of the processors.
Ours have Python's start in them. A line of JSON for each. `taskset -c 0` lets both use one thread,
so that none waits for another one on a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import numpy.typing as npt

from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import read_header
from spillover.quantize.evaluation.evaluate import Evaluation
from spillover.quantize.gguf.imatrix_file import read_imatrix
from spillover.runtime.machine.device import default_threads

_TYPES = ("Q4_K_M", "Q5_0", "IQ4_NL")
_SAYS = {
    "perplexity": "Mean PPL(Q)",
    "perplexity_of_reference": "Mean PPL(base)",
    "perplexity_ratio": "Mean PPL(Q)/PPL(base)",
    "divergence": "Mean    KLD",
    "divergence_median": "Median  KLD",
    "divergence_99": "99.0%   KLD",
    "same_top": "Same top p",
    "rms_delta_p": "RMS Δp",
}
"""What llama-perplexity calls our measures."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--type", dest="types", nargs="+", default=_TYPES)
    parser.add_argument("--n-ctx", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=("imatrix", "quantize", "eval"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, Path(folder))
        for name in given.only:
            getattr(bench, name)()


class Bench:
    """The runs; files that they share are in *folder*."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given, self._folder = given, folder
        self._threads = str(default_threads())
        self._ours, self._theirs = folder / "ours.gguf", folder / "theirs.gguf"

    def imatrix(self) -> None:
        source, text = str(self._given.source), str(self._given.text)
        reading = ["-m", source, "-f", text, "-c", "512", "-t", self._threads, "--no-ppl"]
        times = self._in_turns(
            lambda: self._spillover(
                "imatrix", source, self._ours, "--text", text, "--threads", self._threads
            ),
            lambda: self._tool("llama-imatrix", *reading, "-o", str(self._theirs)),
            new=(self._ours, self._theirs),
        )
        ours, theirs = (read_imatrix(path) for path in (self._ours, self._theirs))
        apart = {
            name: float(np.abs(sums - theirs.sums[name]).sum() / np.abs(theirs.sums[name]).sum())
            for name, sums in ours.sums.items()
        }
        print_line(
            what="imatrix",
            same_names=ours.sums.keys() == theirs.sums.keys(),
            same_counts=all((ours.counts[n] == theirs.counts[n]).all() for n in ours.counts),
            apart_median=median(apart.values()),
            apart_most=max(apart.items(), key=lambda pair: pair[1]),
            **times,
        )

    def quantize(self) -> None:
        for kind in self._given.types:
            for imatrix in (None, self._ours, self._theirs):
                if imatrix is None or imatrix.exists():
                    self._quantize(kind, imatrix)

    def _quantize(self, kind: str, imatrix: Path | None) -> None:
        """Each with the same importance matrix, made by one of both."""
        source = str(self._given.source)
        ours, theirs = self._folder / "q-ours.gguf", self._folder / "q-theirs.gguf"
        flags = [] if imatrix is None else ["--imatrix", str(imatrix)]
        run: list[str | Path] = [
            "run",
            source,
            ours,
            "--type",
            kind,
            "--no-check",
            "--threads",
            self._threads,
        ]
        times = self._in_turns(
            lambda: self._spillover(*run, *flags),
            lambda: self._tool("llama-quantize", *flags, source, str(theirs), kind, self._threads),
            new=(ours, theirs),
            n_rounds=1 if imatrix else None,
        )
        own, other = bytes_of(ours), bytes_of(theirs)
        different = [name for name in own if not np.array_equal(own[name], other[name])]
        name = imatrix.stem if imatrix else "none"
        print_line(what="quantize", type=kind, imatrix=name, different=different, **times)
        ours.unlink()
        theirs.unlink()

    def eval(self) -> None:
        source, text, n_ctx = str(self._given.source), str(self._given.text), self._given.n_ctx
        model, base = self._folder / "m.gguf", self._folder / "base.dat"
        found = self._folder / "found.json"
        reading = ["-f", text, "-c", str(n_ctx), "-t", self._threads]
        reading += ["--kl-divergence-base", str(base)]
        ask: list[str | Path] = [
            "--text",
            text,
            "--n-ctx",
            str(n_ctx),
            "--no-speed",
            "--json",
            found,
        ]
        for kind in self._given.types:
            self._tool("llama-quantize", source, str(model), kind, self._threads)
            said: list[str] = []

            def theirs(said: list[str] = said) -> None:
                self._tool("llama-perplexity", "-m", source, *reading)
                flags = [*reading, "--kl-divergence"]
                said.append(self._tool("llama-perplexity", "-m", str(model), *flags))

            times = self._in_turns(
                lambda: self._spillover("eval", source, model, *ask), theirs, new=(base,)
            )
            loss = msgspec.json.decode(found.read_bytes(), type=Evaluation).candidates[0].loss
            measures = {
                ours: (getattr(loss, ours), *measure(said[-1], name))
                for ours, name in _SAYS.items()
            }
            errors = {
                "divergence": loss.divergence_error,
                "perplexity_ratio": loss.perplexity_ratio_error,
                "same_top": loss.same_top_error,
            }
            print_line(what="eval", type=kind, measures=measures, our_errors=errors, **times)
            model.unlink()

    def _in_turns(
        self,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        new: Sequence[Path],
        n_rounds: int | None = None,
    ) -> dict[str, object]:
        """Seconds of both. *new*: files that are removed before each round."""
        rounds: list[tuple[float, ...]] = []
        for _ in range(n_rounds or self._given.repeat):
            for path in new:
                path.unlink(missing_ok=True)
            rounds.append((*timed(ours), *timed(theirs)))
        columns = [sorted(column) for column in zip(*rounds, strict=True)]
        names = ("ours_s", "ours_cpu_s", "theirs_s", "theirs_cpu_s")
        found: dict[str, object] = {
            name: [round(value, 2) for value in (median(column), column[0], column[-1])]
            for name, column in zip(names, columns, strict=True)
        }
        ours_s, ours_cpu_s, theirs_s, theirs_cpu_s = map(median, columns)
        found["our_speed_by_theirs"] = round(theirs_s / ours_s, 3)
        found["by_processor_time"] = round(theirs_cpu_s / ours_cpu_s, 3)
        return found

    def _spillover(self, *arguments: str | Path) -> str:
        program = Path(sys.executable).with_name("spillover")
        command = [str(program), "quantize", *map(str, arguments)]
        return run_quietly(command)

    def _tool(self, name: str, *arguments: str) -> str:
        return run_quietly([str(self._given.tools / name), *arguments])


def run_quietly(command: list[str]) -> str:
    """What the command said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds that *work* takes, and those that processors worked for the programs that it
    runs, which other programs change little."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return ended - began, cpu_s


def measure(said: str, name: str) -> tuple[float, float | None]:
    """A value that llama-perplexity printed and its error, percent as shares."""
    found = re.search(rf"{re.escape(name)}\s*:\s*(-?[\d.]+)(?: ±\s*([\d.]+))?\s*(%)?", said)
    if found is None:
        raise SystemExit(f"llama-perplexity does not say {name!r}:\n{said[-3000:]}")
    scale = 100 if found[3] else 1
    return float(found[1]) / scale, float(found[2]) / scale if found[2] else None


def bytes_of(path: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """The bytes of each tensor."""
    header, data = read_header(path), np.memmap(path, np.uint8, "r")
    found = {}
    for tensor in header.tensors:
        kind, start = GGML_TYPES[tensor.type_id], header.data_offset + tensor.offset
        n_bytes = int(np.prod(tensor.shape)) // kind.n_values * kind.n_bytes
        found[tensor.name] = data[start : start + n_bytes]
    return found


def print_line(**facts: object) -> None:
    print(json.dumps(facts, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
