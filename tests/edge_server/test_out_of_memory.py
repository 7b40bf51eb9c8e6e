"""The system ends the worker for want of memory, as it does in a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.edge_server.conftest import Server
from tests.edge_server.routed import follow, once
from tests.memory_group import MemoryGroup, memory_group

MIB = 2**20


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group(768 * MIB) as group:
        yield group


@pytest.fixture
def server(group: MemoryGroup, tmp_path: Path) -> Iterator[Server]:
    with group.inside():
        server = Server(tmp_path, "--parallel", "4", fallback="never")
    yield server
    assert server.stop() == 0


def test_a_stream_is_finished_by_the_next_worker_in_a_smaller_layout(
    group: MemoryGroup, server: Server
) -> None:
    with (
        httpx.Client(base_url=server.url, timeout=60) as http,
        group.greedy(left_bytes=96 * MIB) as other,
    ):

        def n_cells() -> int:
            n: int = http.get("/v1/device").json()["n_kv"]
            return n

        before = n_cells()
        needs_memory = once(
            lambda answer: bool(answer.text), lambda _: other.take_until_one_is_killed()
        )
        answer = follow(server, needs_memory, max_tokens=900, ignore_eos=True)
        assert group.n_killed in (1, 2)
        assert (answer.error, answer.finish) == (None, ["length"])
        assert answer.usage["completion_tokens"] == 900
        assert n_cells() < before
        assert follow(server, max_tokens=4, ignore_eos=True).finish == ["length"]
        assert http.get("/health").status_code == 200
