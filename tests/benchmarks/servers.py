"""The servers that are compared, as child processes on free ports of the loopback."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def ours(model: Path, *flags: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of `spillover serve`."""
    command = [sys.executable, "-m", "spillover.edge_server.cli", "serve", str(model)]
    process = subprocess.Popen(
        [*command, "--port", "0", *flags],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1]), process.pid
                return
        raise RuntimeError(f"the server did not start: {said}")
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


@contextlib.contextmanager
def another(command: list[str]) -> Iterator[int]:
    """The port of a server whose *command* takes --port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    import httpx

    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} did not answer")


def llama_server(
    binary: Path, model: Path, n_batch: int, *, shared: bool = True, n_kv: int = 8192
) -> list[str]:
    """*shared*: one KV cache of *n_kv* tokens for all slots, as ours is; else each slot has its
    own cells, twice as many in all."""
    cells = ["-kvu", "-c", str(n_kv)] if shared else ["-no-kvu", "-c", str(2 * n_kv)]
    return [str(binary), "-m", str(model), "-t", "2", "-np", "8", *cells, "-b", str(n_batch),
            "-ub", str(min(n_batch, 512)), "--host", "127.0.0.1"]  # fmt: skip


def llama_cpp_server(python: str, model: Path) -> list[str]:
    return [python, "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", "4096",
            "--n_threads", "2", "--host", "127.0.0.1", "--interrupt_requests", "False"]  # fmt: skip
