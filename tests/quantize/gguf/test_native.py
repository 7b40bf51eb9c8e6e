"""llama.cpp makes of a file what the plan says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import read_header
from spillover.quantize.gguf.file_types import FILE_TYPES, TENSOR_TYPES
from spillover.quantize.gguf.imatrix_file import Imatrix, write_imatrix
from spillover.quantize.gguf.native import plan, quantize
from spillover.quantize.gguf.recipe import Recipe
from spillover.runtime.llama.library import lib
from tests.quantize.gguf.places import order_for, silent

PREFIXES = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
WITHOUT_A_RECIPE = {"NVFP4"}
SLOW = ("IQ1", "IQ2", "IQ3")
"""llama.cpp computes tables for these, for seconds."""


def types_in(path: Path) -> dict[str, str]:
    return {tensor.name: GGML_TYPES[tensor.type_id].name for tensor in read_header(path).tensors}


@pytest.fixture(scope="module")
def imatrix(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up importance of every matrix."""
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    draw = np.random.RandomState(7)
    matrices = {t.name: t.shape[0] for t in read_header(source).tensors if len(t.shape) > 1}
    sums = {n: draw.uniform(1, 9, (1, size)).astype(np.float32) for n, size in matrices.items()}
    counts = {name: np.array([4.0], np.float32) for name in sums}
    made = Imatrix(sums=sums, counts=counts, n_chunks=1, chunk_size=4, datasets=("made-up",))
    write_imatrix(path, made)
    return path


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_file_of_every_type_is_as_planned(
    file_type: str, source: Path, imatrix: Path, tmp_path: Path
) -> None:
    target = tmp_path / "m.gguf"
    order = order_for(source, target, Recipe(file_type=file_type, imatrix=imatrix))
    planned = plan(order, silent)
    assert not target.exists()
    assert not planned.needs_imatrix
    if file_type.startswith(SLOW):
        return
    quantize(order, silent)
    assert types_in(target) == {tensor.name: tensor.planned for tensor in planned.tensors}
    data_bytes = target.stat().st_size - read_header(target).data_offset
    assert data_bytes == planned.size_bytes - planned.header_bytes


@pytest.mark.parametrize("kind", [kind for kind in TENSOR_TYPES if not kind.startswith(SLOW)])
def test_a_single_tensor_can_have_every_type(
    kind: str, source: Path, imatrix: Path, tmp_path: Path
) -> None:
    recipe = Recipe(file_type="Q8_0", tensors=(("ffn_up", kind),), imatrix=imatrix)
    order = order_for(source, tmp_path / "m.gguf", recipe)
    quantize(order, silent)
    found = types_in(tmp_path / "m.gguf")
    assert found["blk.0.ffn_up.weight"] == kind
    assert found["blk.0.ffn_gate.weight"] == "Q8_0"


def test_no_type_of_the_library_is_missing() -> None:
    known = {
        name.removeprefix(prefix): getattr(lib, name)
        for prefix in PREFIXES
        for name in dir(lib)
        if name.startswith(prefix)
    }
    assert {name: known[name] for name in known.keys() - WITHOUT_A_RECIPE} == FILE_TYPES


def test_types_of_few_bits_need_an_imatrix(source: Path, tmp_path: Path) -> None:
    order = order_for(source, tmp_path / "m.gguf", Recipe(file_type="IQ2_XS"))
    assert plan(order, silent).needs_imatrix


def test_importance_changes_how_weights_are_rounded(
    source: Path, imatrix: Path, tmp_path: Path
) -> None:
    contents = []
    for number, given in enumerate((None, imatrix)):
        target = tmp_path / f"{number}.gguf"
        recipe = Recipe(file_type="Q4_K_S", tensors=((".", "Q4_K"),), imatrix=given)
        quantize(order_for(source, target, recipe), silent)
        contents.append(target.read_bytes())
    assert len(contents[0]) == len(contents[1])
    assert contents[0] != contents[1]


def test_progress_counts_tensors(source: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    order = order_for(source, tmp_path / "m.gguf", Recipe(file_type="Q4_0"))
    quantize(order, lambda *step: steps.append(step))
    n_tensors = len(read_header(source).tensors)
    assert steps == [("quantizing", n, n_tensors) for n in range(1, n_tensors + 1)]
