"""One stream beside busy programs, relative to its speed without them, for models of several sizes
and both engines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from spillover.models.catalogue import find
from spillover.runtime.events import Delta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from tests.benchmarks import load

_BUNDLED = ("storyteller", "storyteller-onnx")
N_BUSY = 2
N_PROMPT = 64
_ANSWER_S = 3.0
"""An answer is about as long as this takes without other programs."""


class Figures(Protocol):
    def add(self, name: str, value: float) -> None: ...


def run(models: Sequence[Path], figures: Figures, repeat: int) -> None:
    """One model after the other: its quiet speed, and right after it the one beside others."""
    for path in [*(Path(find(name).path) for name in _BUNDLED), *models]:
        with LocalEngine(path, EngineOptions(n_ctx=1024)) as engine:
            engine.wait_ready()
            time.sleep(20)  # measures its slices once
            for round_ in range(repeat):
                _measure(engine, figures, round_)


def _measure(engine: LocalEngine, figures: Figures, salt: int) -> None:
    name = engine.name
    n_tokens = max(int(_rate(engine, 32, salt) * _ANSWER_S), 32)
    quiet = _rate(engine, n_tokens, salt + 1000)
    with busy(N_BUSY):
        beside = _rate(engine, n_tokens, salt + 2000)
    figures.add(f"busy/{name}/quiet tok/s", quiet)
    figures.add(f"busy/{name}/beside {N_BUSY} programs tok/s", beside)
    figures.add(f"busy/{name}/ratio", beside / quiet)


def _rate(engine: LocalEngine, n_tokens: int, salt: int) -> float:
    """Tokens per second of one answer, its first token not counted."""
    prompt = tuple(load.prompt_of(N_PROMPT, salt))
    asked = GenerationRequest(prompt=prompt, max_tokens=n_tokens, ignore_eos=True)
    times, n = [], 0
    for event in engine.stream(asked):
        if isinstance(event, Delta):
            times.append(time.perf_counter())
            n += len(event.token_ids)
    return (n - 1) / (times[-1] - times[0])


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
