"""Files that keep measurements between two starts: a bad one costs a new measurement, no more."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.files.json_file import MeasurementStore, read_own_json, write_json
from spillover.runtime.llama.opening.prefill_choice import PrefillTimes
from spillover.runtime.scheduling.pace.cost_measurement import SavedCostTables
from spillover.runtime.scheduling.pace.slice_costs import SavedCosts, SliceCosts
from spillover.runtime.scheduling.pace.slice_plan import best_alone, plan_slice
from spillover.runtime.structured_output.last_use import LastUse, StructuredOutputUse

COSTS = SavedCosts(per_call_s={1: 0.01, 64: 0.2}, per_token_and_cell_s={16: 1e-7})
VALID = {
    SavedCostTables: SavedCostTables(pure=COSTS, mixed=COSTS),
    PrefillTimes: PrefillTimes(main_s=2.0, apart_s=1.0),
    StructuredOutputUse: StructuredOutputUse(used_at=1.0),
}
DAMAGED = {
    SavedCostTables: (
        b'{"pure":{"per_call_s":{"1":0},"per_token_and_cell_s":{}},'
        b'"mixed":{"per_call_s":{},"per_token_and_cell_s":{}}}'
    ),
    PrefillTimes: b'{"main_s":0,"apart_s":-1}',
    StructuredOutputUse: b'{"used_at":-1}',
}


@pytest.mark.parametrize("kind", VALID)
def test_a_bad_file_is_set_aside_and_measured_anew(
    kind: type[msgspec.Struct], tmp_path: Path
) -> None:
    store = MeasurementStore(tmp_path, "model", kind)
    store.write(VALID[kind])
    assert store.read() == VALID[kind]
    [path] = (tmp_path / "costs").iterdir()
    for content in (DAMAGED[kind], b"", b"null", b"[" * 100_000, b'{"x":' + b"[" * 100_000):
        path.write_bytes(content)
        assert store.read() is None
        assert [file.name for file in path.parent.iterdir()] == ["model.json.damaged"]
        assert path.with_name("model.json.damaged").read_bytes() == content
    store.write(VALID[kind])
    assert store.read() == VALID[kind]


def test_a_file_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, "x" * (1 << 20))
    assert read_own_json(path, str) is None
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_what_is_no_file_is_set_aside(tmp_path: Path) -> None:
    """Reading a pipe or a device would never end."""
    made = tmp_path / "folder", tmp_path / "pipe", tmp_path / "device"
    made[0].mkdir()
    os.mkfifo(made[1])
    made[2].symlink_to("/dev/zero")
    for path in made:
        assert read_own_json(path, str) is None
        write_json(path, "new")
        assert read_own_json(path, str) == "new"


def test_a_bad_note_of_the_last_use_costs_nothing(tmp_path: Path) -> None:
    LastUse(tmp_path, "model").note()
    [path] = (tmp_path / "costs").iterdir()
    path.write_bytes(b'{"used_at": -1e308}')
    assert not LastUse(tmp_path, "model").is_recent()


Number = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, -1, 1e-320, 1e308])
Table = st.dictionaries(st.integers(-1, 600).map(str), Number, max_size=4)


@given(Table, Table, st.integers(1, 3000), st.integers(0, 100_000), st.floats(-1, 1))
def test_whatever_table_is_accepted_can_be_planned_with(
    calls: dict[str, float], slopes: dict[str, float], n: int, depth: int, room_s: float
) -> None:
    content = msgspec.json.encode({"per_call_s": calls, "per_token_and_cell_s": slopes})
    try:
        costs = SliceCosts(msgspec.json.decode(content, type=SavedCosts))
    except msgspec.ValidationError:
        return
    costs.efficient_size()
    assert 1 <= best_alone(costs, n, depth, 512) <= 512
    planned = plan_slice(
        costs, costs, n_left=n, depth=depth, n_most=512, room_s=room_s, decode_s=0.1
    )
    assert 1 <= planned.n_tokens <= 512
    for seconds in (1e-6, 1e3):
        costs.observe(min(n, 512), depth, seconds)
    kept = msgspec.json.encode(costs.save())
    assert msgspec.json.decode(kept, type=SavedCosts) == costs.save()
