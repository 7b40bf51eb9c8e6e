"""python -m tests.benchmarks [--llama-server PATH] [--repeat N] SCENARIO…

Scenarios: engine, wire, overhead, http, beside, busy, newcomer, conversations, restart, reading,
prefixes, memory, policy, speculation, onnx.
Prints a line of JSON each figure: medians with smallest and largest value. What is compared runs in
turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import platformdirs
import psutil

from spillover.models.catalogue import default_model
from spillover.runtime.events import Delta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from tests.benchmarks import (
    bare_loop,
    busy,
    conversations,
    load,
    onnx_backend,
    policy_cost,
    prefixes,
    reading,
    servers,
    speculation,
)
from tests.benchmarks.random_gguf import quantized

N_PROMPT, N_TOKENS = 64, 64


class Figures:
    """Named values, summed up at the end."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self._values[name].append(value)

    def report(self) -> None:
        """Print what has been added since the last report."""
        values_by_name, self._values = self._values, defaultdict(list)
        for name, values in values_by_name.items():
            line = {"figure": name, "median": median(values), "min": min(values),
                    "max": max(values), "n": len(values)}  # fmt: skip
            print(json.dumps(line), flush=True)


def engine_rate(engine: LocalEngine, n_streams: int, salt: int, n_tokens: int) -> float:
    """Tokens per second in all, while all streams generate."""
    streams: list[list[float]] = []

    def follow(i: int) -> None:
        prompt = tuple(load.prompt_of(N_PROMPT, salt + i))
        stream = engine.stream(
            GenerationRequest(prompt=prompt, max_tokens=n_tokens, ignore_eos=True)
        )
        streams.append([time.perf_counter() for event in stream if isinstance(event, Delta)])

    threads = [threading.Thread(target=follow, args=(i,)) for i in range(n_streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Between the last one's first token and the first one's last: no prompt is read then.
    begin, end = max(times[0] for times in streams), min(times[-1] for times in streams)
    n = sum(begin < at <= end for times in streams for at in times)
    return n / (end - begin)


def engine(model: Path, figures: Figures, repeat: int) -> None:
    """The engine against the bare loop, in turns."""
    backend = bare_loop.open_backend(model)
    with LocalEngine(model, EngineOptions(n_ctx=2048, n_kv=4096, n_parallel=8)) as local:
        local.wait_ready()
        time.sleep(20)  # measures its slices once
        for round_ in range(repeat):
            for n in (1, 4, 8):
                bare, _ = bare_loop.tokens_per_second(backend, n, N_PROMPT, N_TOKENS)
                ours = engine_rate(local, n, 100 * round_ + 10 * n, N_TOKENS)
                figures.add(f"engine/{n}/bare tok/s", bare)
                figures.add(f"engine/{n}/ours tok/s", ours)
                figures.add(f"engine/{n}/ratio", ours / bare)
    backend.close()


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(sum(p.cpu_times()[:2]) for p in family)


def overhead(model: Path, figures: Figures, repeat: int) -> None:
    """CPU time per token of server and worker beyond the bare loop, on the bundled model."""
    bundled = Path(default_model().path)
    # One thread: a second one spins while it waits, which would count as work of ours.
    backend = bare_loop.open_backend(bundled, n_threads=1)
    with servers.ours(bundled, "--parallel", "8", "--threads", "1") as (port, pid):
        time.sleep(3)
        for n in (1, 8):
            for round_ in range(repeat):
                _, bare = bare_loop.tokens_per_second(backend, n, N_PROMPT, 500)
                before = _cpu_s(pid)
                salts = range(1000 * n + 10 * round_, 1000 * n + 10 * round_ + n)
                prompts = [load.prompt_of(N_PROMPT, salt) for salt in salts]
                asyncio.run(load.throughput(port, prompts, 500))
                used = (_cpu_s(pid) - before) / (n * 500)
                figures.add(f"overhead/{n}/us per token", 1e6 * (used - bare))
                figures.add(f"overhead/{n}/bare us per token", 1e6 * bare)
    backend.close()


def _rivals(args: Any, model: Path, stack: contextlib.ExitStack) -> dict[str, int]:
    port, _ = stack.enter_context(
        servers.ours(
            model, "--threads", "2", "--parallel", "8", "--n-ctx", "4096", "--n-kv", "8192"
        )
    )
    ports = {"ours": port}
    if args.llama_server:
        for n_batch, shared in ((2048, True), (256, True), (2048, False)):
            command = servers.llama_server(args.llama_server, model, n_batch, shared=shared)
            name = f"llama-server -b {n_batch}" + ("" if shared else " -no-kvu")
            ports[name] = stack.enter_context(servers.another(command))
    if args.llama_cpp_python:
        command = servers.llama_cpp_server(args.llama_cpp_python, model)
        ports["llama_cpp.server"] = stack.enter_context(servers.another(command))
    time.sleep(20)
    return ports


def http(args: Any, model: Path, figures: Figures, repeat: int) -> None:
    """Total throughput over HTTP, prompts of 180 tokens and 64 tokens each, in turns."""
    with contextlib.ExitStack() as stack:
        ports = _rivals(args, model, stack)
        for round_ in range(repeat):
            for n in (1, 4, 8):
                for name, port in ports.items():
                    if name == "llama_cpp.server" and n == 8:
                        continue
                    first = 100 * round_ + 10 * n
                    texts = [load.text_of(160, salt) for salt in range(first, first + n)]
                    rate = asyncio.run(load.throughput(port, texts, 64))
                    figures.add(f"http/{n}/{name} tok/s", rate)


def beside(args: Any, model: Path, figures: Figures, repeat: int) -> None:
    """One stream beside busy programs of the same priority, in turns."""
    with contextlib.ExitStack() as stack:
        ports = _rivals(args, model, stack)
        for round_ in range(repeat):
            for n_busy in (0, 1, 2):
                with busy.busy(n_busy):
                    for name, port in ports.items():
                        text = load.text_of(160, 10 * round_ + n_busy)
                        rate = asyncio.run(load.throughput(port, [text], 64))
                        figures.add(f"beside/{n_busy}/{name} tok/s", rate)


def wire(model: Path, figures: Figures, repeat: int) -> None:
    """The same texts through HTTP and straight through an engine, in turns: total throughput."""
    options = EngineOptions(n_ctx=4096, n_kv=8192, n_parallel=8, n_threads=2)
    flags = ("--threads", "2", "--parallel", "8", "--n-ctx", "4096", "--n-kv", "8192")
    with servers.ours(model, *flags) as (port, _), LocalEngine(model, options) as local:
        local.wait_ready()
        time.sleep(30)
        for round_ in range(repeat):
            for n in (1, 8):
                first = 100 * round_ + 10 * n
                texts = [load.text_of(160, salt) for salt in range(first, first + n)]
                straight = _straight(local, texts)
                through = asyncio.run(load.throughput(port, texts, 64))
                figures.add(f"wire/{n}/engine tok/s", straight)
                figures.add(f"wire/{n}/http tok/s", through)
                figures.add(f"wire/{n}/ratio", through / straight)


def _straight(engine: LocalEngine, texts: list[str]) -> float:
    """Tokens per second in all, from the first request to the last token."""

    def count(text: str) -> int:
        asked = GenerationRequest(prompt=text, max_tokens=64, ignore_eos=True, reuse_prefix=False)
        return sum(isinstance(event, Delta) for event in engine.stream(asked))

    started = time.perf_counter()
    with ThreadPoolExecutor(len(texts)) as pool:
        n = sum(pool.map(count, texts))
    return n / (time.perf_counter() - started)


def newcomer(args: Any, model: Path, figures: Figures, repeat: int) -> None:
    """A long prompt arrives while streams run, on either engine and at two limits of the gap."""
    n_ctx = max(args.lengths) + 1024
    size = ["--threads", "2", "--parallel", "8", "--n-ctx", str(n_ctx), "--n-kv", str(2 * n_ctx)]
    with contextlib.ExitStack() as stack:
        ports = {}
        for engine_name in args.engines:
            for gap_ms in args.gaps_ms:
                flags = ["--engine", engine_name, "--max-gap-ms", str(gap_ms), *size]
                port, _ = stack.enter_context(servers.ours(model, *flags))
                ports[f"ours, {engine_name}, {gap_ms:.0f} ms"] = port
        if args.llama_server:
            command = servers.llama_server(args.llama_server, model, 2048, n_kv=2 * n_ctx)
            ports["llama-server -b 2048"] = stack.enter_context(servers.another(command))
        time.sleep(20 * len(args.engines))
        for round_ in range(repeat):
            for n_prompt, n_running in itertools.product(args.lengths, args.streams):
                for name, port in ports.items():
                    run = load.newcomer(port, 1000 * round_ + n_prompt, n_prompt, n_running)
                    found = asyncio.run(run)
                    kind = f"newcomer/{n_prompt} beside {n_running}/{name}"
                    print(kind, found, file=sys.stderr)  # a run of many minutes may be cut off
                    for key, value in found.items():
                        figures.add(f"{kind}/{key}", value)


def _bare(model: Path) -> int:
    command = [sys.executable, "-m", "tests.benchmarks.bare_memory", str(model), "8192"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(model: Path, figures: Figures, repeat: int) -> None:
    """Memory and idle CPU with the bundled model, and seconds from start to first token."""
    bundled = Path(default_model().path)
    for _ in range(repeat):
        started = time.perf_counter()
        with servers.ours(bundled) as (port, pid):
            asyncio.run(load.stream(port, load.prompt_of(20, 1), 4))
            figures.add("start to first token s", time.perf_counter() - started)
            time.sleep(3)
            before = _cpu_s(pid)
            time.sleep(5)
            figures.add("idle CPU share", (_cpu_s(pid) - before) / 5)
            parent = psutil.Process(pid)
            total = sum(p.memory_info().rss for p in (parent, *parent.children()))
            figures.add("memory/beyond model, KV and compute MB", (total - _bare(bundled)) / 1e6)
            for process in (parent, *parent.children()):
                kind = "server" if process.pid == pid else "worker"
                figures.add(f"memory/{kind} RSS MB", process.memory_info().rss / 1e6)
                figures.add(f"memory/{kind} USS MB", process.memory_full_info().uss / 1e6)


def policy(figures: Figures, repeat: int) -> None:
    """CPU time of signals and policies for each token of a watched answer; needs no model."""
    for _ in range(repeat):
        for kind in policy_cost.kinds():
            for name, value in policy_cost.microseconds(kind).items():
                figures.add(f"policy/{kind}/{name}", value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="+")
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--llama-cpp-python", help="a Python with llama-cpp-python[server]")
    parser.add_argument("--genai", help="folder with onnxruntime-genai, if it is not installed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[400, 1600, 6000])
    parser.add_argument("--gaps-ms", type=float, nargs="+", default=[250.0, 80.0])
    parser.add_argument("--streams", type=int, nargs="+", default=[3])
    parser.add_argument("--engines", nargs="+", default=["llama"], help="of newcomer")
    folder = Path(platformdirs.user_cache_dir("spillover-bench"))
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--model", type=Path, action="append", default=[], help="instead of 0.4B")
    args = parser.parse_args()
    figures = Figures()
    if args.scenarios == ["policy"]:
        policy(figures, args.repeat)
        figures.report()
        return
    if args.scenarios == ["onnx"]:
        onnx_backend.run(args.folder, figures, args.repeat, args.genai)
        figures.report()
        return
    if args.scenarios == ["speculation"]:
        speculation.run(args.model, figures, args.repeat)
        figures.report()
        return
    if args.scenarios == ["busy"]:
        busy.run(args.model, figures, args.repeat)
        figures.report()
        return
    model = args.model[0] if args.model else quantized(args.folder)
    for name in args.scenarios:
        if name == "policy":
            policy(figures, args.repeat)
        elif name == "reading":
            asked = reading.Asked(args.lengths, args.gaps_ms, args.streams)
            reading.reading(model, figures, args.repeat, asked)
        elif name == "prefixes":
            prefixes.run(model, figures, args.repeat)
        elif name == "conversations":
            conversations.conversations(model, args.llama_server, figures, args.repeat)
        elif name == "restart":
            conversations.restart(model, figures, args.repeat)
        elif name in ("http", "newcomer", "beside"):
            rivals = {"http": http, "newcomer": newcomer, "beside": beside}
            rivals[name](args, model, figures, args.repeat)
        else:
            {"engine": engine, "overhead": overhead, "memory": memory, "wire": wire}[name](
                model, figures, args.repeat
            )
        figures.report()


if __name__ == "__main__":
    main()
