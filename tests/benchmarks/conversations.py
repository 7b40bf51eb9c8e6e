"""How soon somebody who comes back is answered, over HTTP and with every server's defaults."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.benchmarks import load, servers

if TYPE_CHECKING:
    from tests.benchmarks.__main__ import Figures

N_CONVERSATIONS = 20
_SYSTEM = "You are a friendly assistant. Answer in one short sentence, and ask nothing back."
_N_WORDS = 230
"""About 300 tokens."""
_N_RESTORED_WORDS = 3_300
"""About 4,096 tokens."""
_LONGEST_WRITE_S = 60.0

Message = dict[str, str]


def conversations(
    model: Path, llama_server: Path | None, figures: Figures, repeat: int, n: int = N_CONVERSATIONS
) -> None:
    """*n* conversations in turn, with beginnings of their own behind a shared instruction; then a
    second turn of each, in the same order."""
    with contextlib.ExitStack() as stack:
        ports = {"ours": stack.enter_context(servers.ours(model))[0]}
        if llama_server is not None:
            command = [str(llama_server), "-m", str(model), "--host", "127.0.0.1"]
            ports["llama-server"] = stack.enter_context(servers.another(command))
        clients = {name: stack.enter_context(_client(port)) for name, port in ports.items()}
        time.sleep(20)
        for round_ in range(repeat):
            told = {name: [_beginning(1000 * round_ + i) for i in range(n)] for name in clients}
            for turn in ("first", "second"):
                for i in range(n):
                    for name, http in clients.items():
                        kind = f"conversations/{turn} turn/{name} s"
                        _take_turn(http, told[name][i], figures, kind)
                        told[name][i].append({"role": "user", "content": "And what then?"})


def restart(model: Path, figures: Figures, repeat: int) -> None:
    """Instructions of some 4,000 tokens: read, and restored after the server's restart."""
    for _ in range(repeat):
        text = load.text_of(_N_RESTORED_WORDS, int(time.time()) % 100_000)
        with servers.ours(model) as (port, _), _client(port) as http:
            time.sleep(20)
            for i in range(2):  # what is used twice is kept on disk
                name = "restart/cold s" if i == 0 else "restart/from memory s"
                _take_turn(http, _instructed(text, i), figures, name)
            _wait_for_a_file(http)
        with servers.ours(model) as (port, _), _client(port) as http:
            time.sleep(20)
            _take_turn(http, _instructed(text, 2), figures, "restart/restored s")


@contextlib.contextmanager
def _client(port: int) -> Iterator[httpx.Client]:
    """With one connection, which is there before anything is measured."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
        http.get("/v1/models").raise_for_status()
        yield http


def _beginning(salt: int) -> list[Message]:
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": load.text_of(_N_WORDS, salt)},
    ]


def _instructed(text: str, salt: int) -> list[Message]:
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": f"Who is number {salt}?"},
    ]


def _take_turn(http: httpx.Client, messages: list[Message], figures: Figures, name: str) -> None:
    """Ask for an answer, note the seconds until its first text, and add it to *messages*."""
    body: dict[str, Any] = {
        "messages": messages, "max_tokens": 24, "temperature": 0, "stream": True,
    }  # fmt: skip
    first_s, said = None, ""
    asked = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:]).get("choices", ()):
                text = choice["delta"].get("content") or ""
                if text and first_s is None:
                    first_s = time.perf_counter() - asked
                said += text
    assert first_s is not None, "the answer is empty"
    figures.add(name, first_s)
    messages.append({"role": "assistant", "content": said})


def _wait_for_a_file(http: httpx.Client) -> None:
    """Until the server has written what it keeps of a prompt."""
    until = time.monotonic() + _LONGEST_WRITE_S
    while time.monotonic() < until:
        device = http.get("/v1/device").json()
        if device["prefixes"]["n_written"]:
            return
        time.sleep(0.2)
    raise RuntimeError("nothing was written: is prefix_disk off?")
