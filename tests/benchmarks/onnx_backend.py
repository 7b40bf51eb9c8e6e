"""The ONNX backend against onnxruntime-genai on the same folder, against the loop that users of a
plain export write, and beside GGUF; random weights of Qwen2.5-0.5B's shape.

CPU seconds of one thread, so that other programs on the machine matter little; the time to the
first token is the clock's.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import psutil

from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.events import Delta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from tests.benchmarks import load, plain_int4, random_gguf, random_hf

N_STREAMS = 8
PROMPTS = (40, 180, 75, 110, 60, 150, 95, 130)
ANSWERS = (96, 24, 64, 40, 80, 32, 48, 72)
"""Of the eight streams: nobody's requests are all alike."""


class FigureSink(Protocol):
    def add(self, name: str, value: float) -> None: ...


def run(folder: Path, figures: FigureSink, repeat: int, genai_path: str | None) -> None:
    model = random_hf.exported(folder, ExportOptions(interface="genai"), "random-0.5b-int4-genai")
    against_genai(model, figures, repeat, genai_path)
    against_numpy_loop(folder, figures, repeat)
    beside_gguf(folder, model, figures, repeat)


# --- one engine, measured from outside ------------------------------------------------------


class Ours:
    """A LocalEngine of one thread and its worker's CPU seconds."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        assert engine.worker_pid is not None
        self._worker = psutil.Process(engine.worker_pid)

    def _cpu_s(self) -> float:
        return sum(self._worker.cpu_times()[:2])

    def stream(self, prompt: list[int], n_tokens: int) -> list[float]:
        """When each delta came."""
        request = GenerationRequest(prompt=tuple(prompt), max_tokens=n_tokens, ignore_eos=True)
        events = self._engine.stream(request)
        return [time.perf_counter() for event in events if isinstance(event, Delta)]

    def read_cpu_s(self, prompt: list[int]) -> float:
        """To read a prompt, and give one token."""
        before = self._cpu_s()
        self.stream(prompt, 1)
        return self._cpu_s() - before

    def step_cpu_s(self, prompt: list[int], n_tokens: int) -> float:
        """Of a token after the first one: the same prompt, which is cached, with 1 and with all."""
        self.stream(prompt, 1)
        short = self.read_cpu_s(prompt)
        before = self._cpu_s()
        self.stream(prompt, n_tokens)
        return (self._cpu_s() - before - short) / (n_tokens - 1)

    def all_cpu_s(self, prompts: list[list[int]], n_tokens: list[int]) -> float:
        before = self._cpu_s()
        threads = [
            threading.Thread(target=self.stream, args=order)
            for order in zip(prompts, n_tokens, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._cpu_s() - before

    def newcomer_s(self, running: list[list[int]], prompt: list[int], n_tokens: int) -> float:
        """From the request to its first token, while others have begun their answers."""
        have_begun = threading.Barrier(len(running) + 1)

        def follow(own: list[int]) -> None:
            request = GenerationRequest(prompt=tuple(own), max_tokens=n_tokens, ignore_eos=True)
            has_begun, n_seen = False, 0
            for event in self._engine.stream(request):
                n_seen += len(event.token_ids) if isinstance(event, Delta) else 0
                if n_seen >= 8 and not has_begun:
                    has_begun = True
                    have_begun.wait()

        threads = [threading.Thread(target=follow, args=(own,)) for own in running]
        for thread in threads:
            thread.start()
        have_begun.wait()
        asked = time.perf_counter()
        first = self.stream(prompt, 2)[0] - asked
        for thread in threads:
            thread.join()
        return first


@contextlib.contextmanager
def ours(model: Path, n_ctx: int = 2048) -> Generator[Ours]:
    with tempfile.TemporaryDirectory() as cache:
        options = EngineOptions(
            n_threads=1, n_ctx=n_ctx, n_kv=8192, n_parallel=8, cache_dir=Path(cache)
        )
        with LocalEngine(model, options) as engine:
            engine.wait_ready()
            while not list(Path(cache).glob("costs/*.json")):  # it measures its slices once
                time.sleep(1)
            yield Ours(engine)


# --- onnxruntime-genai ----------------------------------------------------------------------


class Rival:
    """tests/benchmarks/genai_rival.py in a process of its own, as its users would run it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version: str = self._answer()["version"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def genai(model: Path, genai_path: str | None) -> Generator[Rival]:
    paths = [path for path in (genai_path, os.environ.get("PYTHONPATH")) if path]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.genai_rival", str(model), "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        yield Rival(process)
    finally:
        process.kill()
        process.wait()


def against_genai(model: Path, figures: FigureSink, repeat: int, genai_path: str | None) -> None:
    with ours(model) as local, genai(model, genai_path) as rival:
        for turn in range(repeat):
            for n_prompt in (64, 1024):
                prompt = load.prompt_of(n_prompt, 10 * turn)
                theirs = rival.ask("single", prompt=prompt, n_tokens=40)
                read = local.read_cpu_s(prompt)
                _compare(figures, f"read {n_prompt}/cpu s", read, theirs["read_cpu_s"])
                step = local.step_cpu_s(prompt, 40)
                _compare(figures, f"step at {n_prompt}/cpu s", step, theirs["step_cpu_s"])
            prompts = [load.prompt_of(n, 100 * turn + i) for i, n in enumerate(PROMPTS)]
            theirs = rival.ask("streams", prompts=prompts, n_tokens=ANSWERS, late=0)
            assert theirs["n"] == sum(ANSWERS)
            _compare(
                figures,
                f"{N_STREAMS} streams/cpu s",
                local.all_cpu_s(prompts, list(ANSWERS)),
                theirs["cpu_s"],
            )
            running = [load.prompt_of(60, 1000 * turn + i) for i in range(4)]
            late = running.pop()
            theirs = rival.ask(
                "streams", prompts=[*running, late], n_tokens=[100, 100, 100, 2], late=1
            )
            first = local.newcomer_s(running, late, 100)
            _compare(figures, "newcomer's first token/s", first, theirs["first_s"])


def _compare(figures: FigureSink, name: str, own: float, other: float) -> None:
    figures.add(f"onnx/{name}/ours", own)
    figures.add(f"onnx/{name}/genai", other)
    figures.add(f"onnx/{name}/ratio", other / own)


# --- a plain export -------------------------------------------------------------------------


def against_numpy_loop(folder: Path, figures: FigureSink, repeat: int) -> None:
    """Steps at a context of 1,024 by turns: the engine's, and those of the loop in this process."""
    source, path = folder / "random-0.5b-hf", folder / "random-0.5b-int4-plain"
    if not path.exists():
        plain_int4.write(source, path)
    with ours(path) as local:
        for turn in range(repeat):
            prompt = load.prompt_of(1024, turn)
            loop = plain_int4.NumpyLoop(path / "model.onnx", 1)
            loop.step(prompt)
            theirs = statistics.mean(loop.step_cpu_s() for _ in range(40))
            step = local.step_cpu_s(prompt, 40)
            figures.add("onnx/plain export, step at 1024/cpu s/ours", step)
            figures.add("onnx/plain export, step at 1024/cpu s/loop", theirs)
            figures.add("onnx/plain export, step at 1024/cpu s/ratio", theirs / step)


# --- GGUF -----------------------------------------------------------------------------------


def beside_gguf(folder: Path, model: Path, figures: FigureSink, repeat: int) -> None:
    """The same shape as Q4_K_M and as int4, through the same engine."""
    gguf = random_gguf.quantized(folder, random_gguf.QWEN_HALF_B)
    with ours(model) as as_onnx, ours(gguf) as as_gguf:
        for turn in range(repeat):
            for name, local in (("ONNX int4", as_onnx), ("GGUF Q4_K_M", as_gguf)):
                prompt = load.prompt_of(1024, 7 + turn)
                figures.add(f"formats/{name}/read 1024 cpu s", local.read_cpu_s(prompt))
                figures.add(f"formats/{name}/step at 1024 cpu s", local.step_cpu_s(prompt, 40))
                short = load.prompt_of(64, 7 + turn)
                figures.add(f"formats/{name}/step at 64 cpu s", local.step_cpu_s(short, 40))
                prompts = [load.prompt_of(64, 50 * turn + i) for i in range(8)]
                cpu_s = local.all_cpu_s(prompts, [48] * 8) / (8 * 48)
                figures.add(f"formats/{name}/token of 8 streams cpu s", cpu_s)
