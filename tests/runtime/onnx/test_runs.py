"""How a batch becomes runs of the graph, and what the KV cache costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from spillover.models.catalogue import find
from spillover.runtime.backend import Logits, Rows
from spillover.runtime.onnx.graph.edit import add_input, insert_before, replace_input
from spillover.runtime.onnx.graph.head import find_head
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.execution import (
    FIRST_WITH_QUERY_LENGTHS,
    Needs,
    on_cpu,
    runtime_version,
)
from spillover.runtime.onnx.runners.slot_runner import SlotRunner
from tests.runtime.onnx.graph.real_exports import IDS, loaded

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


def as_it_is(proto: ModelProto) -> None:
    pass


def with_an_unknown_end(proto: ModelProto) -> None:
    """The head is not found, so the logits of all positions are computed."""
    head = find_head(proto, "logits")
    assert head is not None
    axes = numpy_helper.from_array(np.array([0]), "axes")
    proto.graph.initializer.append(axes)
    head.output[0] = "flat"
    proto.graph.node.append(helper.make_node("Unsqueeze", ["flat", "axes"], ["deep"]))
    proto.graph.node.append(helper.make_node("Squeeze", ["deep", "axes"], ["logits"]))


def with_last_logits(proto: ModelProto) -> None:
    keep_from(proto, "minus_one")
    (logits,) = (output for output in proto.graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_value = 1


def with_a_number_of_logits(proto: ModelProto) -> None:
    scalar = helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, [])
    add_input(proto, scalar)
    keep_from(proto, "minus_n")
    node = helper.make_node("Neg", ["num_logits_to_keep"], ["minus_n"])
    proto.graph.node.insert(0, node)


def keep_from(proto: ModelProto, start: str) -> None:
    """The head reads the last positions only."""
    head = find_head(proto, "logits")
    assert head is not None
    for name, value in (("minus_one", [-1]), ("end", [2**62]), ("axis", [1]), ("flat", [-1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    flat = helper.make_node("Reshape", [start, "flat"], ["start"])
    kept = helper.make_node("Slice", [head.input[0], "start", "end", "axis"], ["kept"])
    insert_before(proto, head, [flat, kept])
    replace_input(head, 0, "kept")


def logits_of_a_step(path: Path, *, is_alone: bool) -> Logits:
    """Of two sequences that continue with one token each, and of one that continues with two."""
    version = runtime_version()
    graph = prepare(
        path, runtime_version=version, query_lengths=version >= FIRST_WITH_QUERY_LENGTHS
    )
    n_vocab = graph.layout.n_vocab or 0
    execution = on_cpu(graph, Needs(n_seq=3, n_ctx=40, n_vocab=n_vocab, n_threads=1))
    runner = execution.runner
    dtype = execution.session.dtype(execution.layout.logits)
    prompts, batch = [], []
    for seq, (start, n) in enumerate([(5, 1), (9, 1), (7, 2)]):
        ids = IDS[3 * seq :].astype(np.int32)
        prompts.append(Rows(seq, 0, ids[:start], True))
        batch.append(Rows(seq, start, ids[start : start + n], True))
    out = np.empty((3, n_vocab), dtype)
    for prompt in prompts:
        runner.run([prompt], out[:1])
    found = np.empty_like(out)
    for places in [[0], [1], [2]] if is_alone else runner.split(batch):
        runner.run([batch[place] for place in places], out[: len(places)])
        found[places] = out[: len(places)]
    return found.astype(np.float32)


@pytest.mark.parametrize(
    "change", [as_it_is, with_an_unknown_end, with_last_logits, with_a_number_of_logits]
)
def test_what_shares_a_step_gets_the_logits_that_it_has_alone(
    change: Callable[[ModelProto], None], tmp_path: Path
) -> None:
    """Graphs that give the logits at the end of each row gave those of the padding."""
    proto = loaded("genai/llama")
    change(proto)
    onnx.save(proto, tmp_path / "model.onnx")
    alone, together = (
        logits_of_a_step(tmp_path / "model.onnx", is_alone=is_alone) for is_alone in (True, False)
    )
    np.testing.assert_allclose(together, alone, atol=0.05 * float(np.abs(alone).max()))


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
