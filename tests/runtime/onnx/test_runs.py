"""How a batch becomes runs of the graph, and what the KV cache costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import Rows
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.execution import (
    FIRST_WITH_QUERY_LENGTHS,
    Needs,
    on_cpu,
    runtime_version,
)
from spillover.runtime.onnx.runners.slot_runner import SlotRunner

N_CTX = 1024
N_SEQ = 6
KV_BYTES = 6 * 2 * 2 * 64 * 4
"""Of a token: layers, keys and values, heads, values of a head, bytes of a value."""


@pytest.fixture(scope="module")
def runner() -> SlotRunner:
    version = runtime_version()
    graph = prepare(
        find("storyteller-onnx").path,
        runtime_version=version,
        query_lengths=version >= FIRST_WITH_QUERY_LENGTHS,
    )
    needs = Needs(n_seq=N_SEQ, n_ctx=N_CTX, n_vocab=4096, n_threads=1)
    execution = on_cpu(graph, needs)
    execution.session.arm()
    assert isinstance(execution.runner, SlotRunner)
    return execution.runner


def rows(seq: int, n: int, start: int = 0) -> Rows:
    return Rows(seq, start, np.full(n, 300, dtype=np.int32), True)


def test_all_decoding_ones_are_one_run_whatever_their_order(runner: SlotRunner) -> None:
    runs = runner.split([rows(4, 1), rows(0, 1), rows(2, 1)])
    assert len(runs) == 1
    assert sorted(runs[0]) == [0, 1, 2]


def test_a_long_slice_is_a_run_of_its_own(runner: SlotRunner) -> None:
    assert len(runner.split([rows(0, 1), rows(1, 1), rows(2, 64)])) == 2


def test_a_few_tokens_join_the_others_where_the_library_can(runner: SlotRunner) -> None:
    n_runs = len(runner.split([rows(0, 1), rows(1, 1), rows(2, 2)]))
    assert n_runs == (1 if runtime_version() >= FIRST_WITH_QUERY_LENGTHS else 2)


def test_nothing_joins_where_the_padding_would_not_fit(runner: SlotRunner) -> None:
    assert len(runner.split([rows(0, 1, start=N_CTX - 1), rows(2, 2)])) == 2


def resident_bytes() -> int:
    """Of the caches' own maps, which no huge pages back: the process has other memory that comes
    and goes."""
    total = held = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            held = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "nh" in line.split():
            total += held
    return total


def test_the_cache_takes_memory_for_its_tokens_and_gives_it_back(runner: SlotRunner) -> None:
    logits = np.empty((1, 4096), dtype=np.float32)
    runner.run([rows(0, 200)], logits)  # what the library itself needs for such a run
    runner.truncate(0, 0)
    before = resident_bytes()
    for seq in range(N_SEQ):
        for start in range(0, 1000, 200):
            runner.run([rows(seq, 200, start)], logits)
    needed = N_SEQ * 1000 * KV_BYTES
    assert 0.8 * needed < resident_bytes() - before < 1.3 * needed
    for seq in range(N_SEQ):
        runner.truncate(seq, 16)
    assert resident_bytes() - before < 0.2 * needed
    for seq in range(N_SEQ):
        runner.truncate(seq, 0)
