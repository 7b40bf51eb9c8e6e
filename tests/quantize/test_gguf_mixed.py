"""The type of each matrix of a GGUF file, chosen by what it loses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from spillover.edge_server import cli
from spillover.models.ggml_types import GGML_TYPES
from spillover.models.gguf_header import read_header
from spillover.quantize.gguf.imatrix_file import Imatrix, write_imatrix
from spillover.quantize.gguf.native import plan, quantize
from spillover.quantize.gguf.recipe import Recipe
from spillover.quantize.gguf.rounding import rounded
from spillover.quantize.knapsack import Way, choose
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.plan import tensor_losses
from tests import tiny_gguf, tiny_models
from tests.quantize.gguf.places import order_for, silent
from tests.tiny_models import CONFIGS

CONFIG = {**CONFIGS["llama"], "hidden_size": 256, "intermediate_size": 288, "head_dim": 64}
"""Rows of 256 and of 288 weights: not all types fit all of them."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write_model(tmp_path_factory.mktemp("mixed") / "m-F16.gguf", CONFIG, "F16")


def test_the_choice_is_the_best_of_all_that_fit() -> None:
    draw = np.random.RandomState(5)
    things = [
        [Way(n_bytes=int(draw.randint(1, 40)), loss=float(draw.uniform())) for _ in range(3)]
        for _ in range(5)
    ]
    for most in (40, 60, 90, 200):
        fitting = [
            (sum(way.loss for way in ways), sum(way.n_bytes for way in ways))
            for ways in itertools.product(*things)
        ]
        wanted = min((loss for loss, n_bytes in fitting if n_bytes <= most), default=None)
        chosen = choose(things, most)
        if wanted is None:
            assert chosen is None
            continue
        assert chosen is not None
        taken = [ways[place] for ways, place in zip(things, chosen, strict=True)]
        assert sum(way.n_bytes for way in taken) <= most
        assert sum(way.loss for way in taken) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "IQ4_NL", "Q8_0"])
def test_rows_are_rounded_as_in_the_file_that_llama_cpp_writes(
    kind: str, source: Path, tmp_path: Path
) -> None:
    name = "blk.0.attn_q.weight"
    importance = np.random.RandomState(7).uniform(1, 9, 256).astype(np.float32)
    made = Imatrix(
        sums={name: importance[None]}, counts={name: np.array([1.0], np.float32)},
        n_chunks=1, chunk_size=1, datasets=("made-up",),
    )  # fmt: skip
    write_imatrix(tmp_path / "imatrix.gguf", made)
    recipe = Recipe(file_type="Q8_0", tensors=((".", kind),), imatrix=tmp_path / "imatrix.gguf")
    quantize(order_for(source, tmp_path / "m.gguf", recipe), silent)

    stored, written = (
        next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
        for path in (source, tmp_path / "m.gguf")
    )
    assert written.tensor_type.name == kind
    found = rounded(stored.data.astype(np.float32), kind, importance, n_threads=2)
    np.testing.assert_array_equal(found, dequantize(written.data, written.tensor_type))


def test_what_a_type_loses_follows_from_what_another_one_was_seen_to_lose(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, tokens = GgufSource(source), tiny_models.IDS
    found = tensor_losses.tensor_losses(stored, tokens, 48, lambda n, n_all: None)
    assert len(found) == 3 * 7
    for one in found:
        kinds = ["IQ4_NL", "Q5_0", "Q8_0"]
        if one.shape[1] == 256:
            kinds = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]
        assert list(one.losses) == kinds
        assert sorted(one.losses.values(), reverse=True) == list(one.losses.values())

    monkeypatch.setattr(tensor_losses, "_MEASURED", ("Q6_K", "Q8_0"))
    seen = tensor_losses.tensor_losses(stored, tokens, 48, lambda n, n_all: None)
    for one, other in zip(found, seen, strict=True):
        for kind, loss in one.losses.items():
            assert 0.3 < loss / other.losses[kind] < 3


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_command_names_the_type_of_every_matrix(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**CONFIG, **({} if family == "llama" else CONFIGS["phi3"])}
    source = tiny_gguf.write_model(tmp_path / "m.gguf", config, "F16", is_fused=family == "phi3")
    (tmp_path / "text").write_text("abc " * 200)
    arguments = ["quantize", "plan", str(source), "--text", str(tmp_path / "text")]
    assert cli.run([*arguments, "--target-bpw", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_weight"] <= 7
    recipe = Recipe(
        file_type=found["file_type"],
        tensors=tuple((pattern, kind) for pattern, kind in found["tensors"]),
    )
    planned = plan(order_for(source, tmp_path / "none.gguf", recipe), silent)
    matrices = [tensor for tensor in planned.tensors if len(tensor.shape) == 2]
    counts = dict.fromkeys(found["types"], 0)
    for tensor in matrices:
        counts[tensor.planned] += 1
    assert counts == found["types"]
    assert sum(tensor.n_bytes for tensor in planned.tensors) == found["size_bytes"]
    assert {len(read_header(source).tensors), len(planned.tensors)} == {len(planned.tensors)}

    assert cli.run([*arguments, "--target-bpw", "7"]) == 0
    printed = capsys.readouterr().out
    assert "--tensor '^token_embd" in printed
    assert f"imatrix.gguf --text {tmp_path / 'text'}" in printed
    assert cli.run([*arguments, "--target-bpw", "3"]) == 1
    assert "too few" in capsys.readouterr().err


def test_weights_that_are_quantized_already_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "Q8_0")
    assert cli.run(["quantize", "plan", str(source), "--target-bpw", "7"]) == 1
    assert "quantized already" in capsys.readouterr().err
    assert {GGML_TYPES[t.type_id].name for t in read_header(source).tensors} == {"F32", "Q8_0"}
