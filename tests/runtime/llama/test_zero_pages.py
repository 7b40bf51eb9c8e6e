"""A KV cache takes memory as tokens are written into it, and holds what it always held."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from msgspec.structs import replace

from spillover.runtime.backend import Rows
from spillover.runtime.llama import zero_pages
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.zero_pages import without_zeros
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_memories, tiny_models
from tests.loading import opened_gguf

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux promises zeros in the place of returned pages"
)

MIB = 2**20
WIDE: dict[str, Any] = {
    **tiny_models.CONFIGS["llama"],
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "max_position_embeddings": 8192,
}
"""A tiny model with the KV cells of one of 0.1B: 24 KiB each over its layers."""


def write_wide(path: Path) -> Path:
    return tiny_gguf.write_model(path, WIDE, merges=[("a", "b")])


CELL_BYTES = 3 * 16 * 64 * 2 * 2
N_KV = 32_768


def held_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def mapped(n_bytes: int, fill: Callable[[npt.NDArray[np.uint8]], None]) -> npt.NDArray[np.uint8]:
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(memory, dtype=np.uint8)
    fill(values)
    return values


def test_zeros_are_returned_and_values_stay_where_they_are() -> None:
    def fill(values: npt.NDArray[np.uint8]) -> None:
        values[:] = 0
        values[20 * MIB + 5] = 7
        values[-1] = 9

    before = held_bytes()
    values = without_zeros(lambda: mapped(64 * MIB, fill))
    assert held_bytes() - before < 8 * MIB
    assert np.flatnonzero(values).tolist() == [20 * MIB + 5, 64 * MIB - 1]
    assert (values[20 * MIB + 5], values[-1]) == (7, 9)


def test_memory_that_was_there_before_is_left_alone() -> None:
    zeros = mapped(64 * MIB, lambda values: values.fill(0))
    before = held_bytes()
    other = without_zeros(lambda: mapped(16 * MIB, lambda values: values.fill(1)))
    assert held_bytes() - before > 15 * MIB
    assert int(other.sum()) == 16 * MIB
    assert not zeros.any()


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ([], [(100, 200)]),
        ([(100, 200)], []),
        ([(120, 150)], [(100, 120), (150, 200)]),
        ([(90, 110), (190, 300)], [(110, 190)]),
        ([(0, 50), (100, 130), (160, 170), (250, 300)], [(130, 160), (170, 200)]),
    ],
)
def test_new_memory_beside_older_memory_is_told_apart(
    before: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    def large(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(first * MIB, last * MIB) for first, last in ranges]

    assert zero_pages._beyond(large([(100, 200)])[0], large(before)) == large(left)


CONFIG = LlamaConfig(
    n_kv=N_KV, n_seq=4, n_batch=512, n_threads=1, n_gpu_layers=0, kv_cache_type="f16",
    use_extra_bufts=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide(tmp_path_factory.mktemp("wide") / "wide.gguf")


def test_a_kv_cache_takes_memory_with_its_tokens(wide: Path) -> None:
    before = held_bytes()
    backend = LlamaBackend(wide, CONFIG)
    opened = held_bytes() - before
    tokens = np.arange(512, dtype=np.int32) % 96
    backend.decode([Rows(0, 0, tokens, True)])
    warm = held_bytes()
    for seq in (1, 2, 3):
        backend.decode([Rows(seq, 0, tokens, True)])
    grown = held_bytes() - warm
    backend.close()
    assert opened < N_KV * CELL_BYTES / 10
    assert 0.9 * 1536 * CELL_BYTES < grown < 1.5 * 1536 * CELL_BYTES + 4 * MIB


def test_a_worker_stays_small_until_conversations_need_more(wide: Path, tmp_path: Path) -> None:
    options = EngineOptions(n_kv=N_KV, n_parallel=4, n_threads=1, cache_dir=tmp_path)
    with LocalEngine(wide, options) as engine:
        assert engine.wait_ready(120).n_kv == N_KV
        worker = psutil.Process(engine.worker_pid)
        assert worker.memory_info().rss < 300 * MIB < N_KV * CELL_BYTES


MODELS: dict[str, Callable[[Path], Path]] = {
    "all positions": write_wide,
    "windowed": tiny_memories.write_windowed,
    "hybrid": tiny_memories.write_hybrid,
    "recurrent": tiny_memories.write_recurrent,
}


@pytest.mark.parametrize("name", MODELS)
def test_returned_memory_does_not_change_a_bit_of_the_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MODELS[name](tmp_path / "model.gguf")
    found = []
    for is_returned in (True, False):
        monkeypatch.setattr(zero_pages, "CAN_BE_RETURNED", is_returned)
        backend = LlamaBackend(path, replace(CONFIG, n_kv=8192))
        logits = []
        for seq, n in ((0, 300), (1, 40)):
            backend.decode([Rows(seq, 0, np.arange(n, dtype=np.int32) % 96, True)])
            logits.append(backend.logits(0).copy())
        assert backend.copy(0, 2, 300) == 300
        backend.decode(
            [Rows(seq, n, np.array([9], np.int32), True) for seq, n in ((1, 40), (2, 300))]
        )
        logits += [backend.logits(0).copy(), backend.logits(1).copy()]
        found.append(np.concatenate(logits))
        backend.close()
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[0], found[1])


def test_only_a_cache_that_fills_lazily_counts_its_memory(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(n_kv=1024, n_parallel=1, n_threads=1, second_layout="off")
    for is_returned, n_bytes in ((True, CELL_BYTES), (False, 0)):
        monkeypatch.setattr(zero_pages, "CAN_BE_RETURNED", is_returned)
        backend = opened_gguf(wide, options).backend
        assert backend.info.kv_bytes_per_cell == n_bytes
        backend.close()


def test_where_the_system_refuses_everything_stays_as_it_is() -> None:
    def locked() -> npt.NDArray[np.uint8]:
        values = mapped(8 * MIB, lambda values: values.fill(0))
        address, n_bytes = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(8 * MIB)
        if ctypes.CDLL(None).mlock(address, n_bytes):
            pytest.skip("this process may not lock so much memory")
        return values

    before = held_bytes()
    values = without_zeros(locked)
    assert held_bytes() - before > 7 * MIB
    assert not values.any()
