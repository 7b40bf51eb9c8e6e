"""Weights that are rounded for what they multiply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from spillover.edge_server import cli
from spillover.quantize.evaluation.shipped_text import shipped_text
from spillover.quantize.onnx_export import blocks as blocks_module
from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.compensation import Compensator
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export, open_source
from spillover.quantize.onnx_export.options import BlockSize, ExportOptions
from spillover.quantize.onnx_export.source import HEAD
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.texts import calibration_text
from tests import tiny_models
from tests.onnx_sessions import Logits, divergence, product_of_blocks, ragged_logits
from tests.storyteller import STORY, STORYTELLER
from tests.tiny_models import CONFIGS

CALIBRATION = (
    "Once there was a small bear who lived near a river. The bear liked to eat berries and to swim "
    "when the sun was warm. One morning a bird came and asked for help, because her nest had "
    "fallen from the tree. They looked for sticks and leaves, and before it was dark the nest was "
    "built again. The bird sang a song, and all the animals came to listen.\n"
    "Anna had a red ball. She played with it in the garden, until it rolled into the pond. Her "
    "brother took a long stick, but it was too short. Then a duck came and pushed the ball back. "
    "Anna laughed and gave the duck some bread. From that day on they were friends.\n"
)


def silent(n_done: int, n_all: int) -> None:
    pass


def inputs(n_values: int) -> Floats:
    """Correlated inputs with a few large columns, as models have them: (tokens, n_values)."""
    random = np.random.RandomState(7)
    mixed = random.standard_normal((600, 24)) @ random.standard_normal((24, n_values))
    mixed[:, ::17] *= 8
    return np.asarray(mixed + random.standard_normal((600, n_values)), np.float32)


@pytest.mark.parametrize("is_symmetric", [False, True])
@pytest.mark.parametrize(("n_values", "size"), [(128, 32), (160, 64), (96, 128)])
def test_a_product_with_real_inputs_is_nearer_than_by_plain_rounding(
    n_values: int, size: int, is_symmetric: bool
) -> None:
    x = inputs(n_values)
    matrix = np.random.RandomState(8).standard_normal((48, n_values)).astype(np.float32)
    compensator = Compensator((x.T @ x).astype(np.float64), len(x))
    found = compensator.quantize(matrix, block=size, is_symmetric=is_symmetric)
    plain = blocks_module.quantize(
        lambda start, stop: matrix[start:stop],
        (48, n_values),
        bits=4,
        is_symmetric=is_symmetric,
        block=size,
    )
    errors = [
        float(np.square(x @ (blocks.values() - matrix).T).mean()) for blocks in (found, plain)
    ]
    assert errors[0] < 0.6 * errors[1]
    by_operator = product_of_blocks(np.eye(n_values, dtype=np.float32), found)
    np.testing.assert_allclose(by_operator, found.values().T, atol=1e-5)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = inputs(64)
    x[:, 5:40] = 0
    matrix = np.random.RandomState(9).standard_normal((16, 64)).astype(np.float32)
    moments = (x.T @ x).astype(np.float64)
    for sums in (moments, np.zeros_like(moments)):
        values = Compensator(sums, len(x)).quantize(matrix, block=32, is_symmetric=False).values()
        assert np.abs(values - matrix).max() < 1


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_layers_one_after_the_other_compute_what_the_graph_computes(
    name: str, tmp_path: Path
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS[name])
    options = ExportOptions(weights="fp32")
    exported = export(tmp_path / "hf", tmp_path / "out", options, silent)
    source = SplitSource(open_source(tmp_path / "hf"))
    runs = LayerRuns(source, options, exported.n_ctx)
    (state,) = runs.entry([tiny_models.IDS])
    for index in range(len(source.spec.layers)):
        state, _ = runs.layer(index, is_exact=True).run(state)
    head = "embed_tokens.weight" if source.spec.is_tied else HEAD
    logits = state.x @ source.values(head).T * source.spec.logit_scale
    if source.spec.logit_cap is not None:
        logits = source.spec.logit_cap * np.tanh(logits / source.spec.logit_cap)
    wanted = ragged_logits(exported.folder / "model.onnx", tiny_models.IDS, [40])
    np.testing.assert_allclose(logits, wanted, atol=2e-4)


def calibration_logits(folder: Path, options: ExportOptions) -> Logits:
    export(STORYTELLER, folder, options, silent)
    tokenizer = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    ids = np.asarray(tokenizer.encode(CALIBRATION).ids, np.int64)
    return ragged_logits(folder / "model.onnx", ids, [len(ids)], n_ctx=512)


def test_a_calibrated_model_is_nearer_to_the_exact_one_on_such_text_and_no_larger(
    tmp_path: Path,
) -> None:
    size: BlockSize = 64
    kinds = {
        "exact": ExportOptions(weights="fp32"),
        "plain": ExportOptions(block=size),
        "calibrated": ExportOptions(block=size, calibration=CALIBRATION),
    }
    logits = {kind: calibration_logits(tmp_path / kind, made) for kind, made in kinds.items()}
    losses = [divergence(logits["exact"], logits[kind]) for kind in ("plain", "calibrated")]
    assert losses[1] < 0.7 * losses[0]
    sizes = [(tmp_path / kind / "model.onnx").stat().st_size for kind in ("plain", "calibrated")]
    assert sizes[0] == sizes[1]


def test_kept_matrices_have_8_bits(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    choices: tuple[tuple[str, ...], ...] = ((), ("layers.0.*", "*.down_proj"), ("*",))
    made = [
        export(
            tmp_path / "hf",
            tmp_path / str(i),
            ExportOptions(eight_bits=patterns, calibration=STORY * 2),
            silent,
        )
        for i, patterns in enumerate(choices)
    ]
    assert made[0].size_bytes < made[1].size_bytes < made[2].size_bytes
    exact = export(tmp_path / "hf", tmp_path / "int8", ExportOptions(weights="int8"), silent)
    found = [
        ragged_logits(one.folder / "model.onnx", tiny_models.IDS, [40]) for one in (made[2], exact)
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    options = ExportOptions(calibration="Hello")
    with pytest.raises(ExportError, match="64"):
        export(STORYTELLER, tmp_path / "out", options, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    arguments = [str(STORYTELLER), str(tmp_path / "out"), "--calibration", str(tmp_path / "text")]
    assert cli.run(["export", "onnx", *arguments]) == 1
    assert "UTF-8" in capsys.readouterr().err


def test_the_calibration_text_that_ships_is_another_one_than_evaluations_read() -> None:
    lines = [set(text.splitlines()) - {""} for text in (calibration_text(), shipped_text())]
    assert min(map(len, lines)) > 50
    shared = {line for line in lines[0] & lines[1] if len(line) > 20}
    assert shared == set()
