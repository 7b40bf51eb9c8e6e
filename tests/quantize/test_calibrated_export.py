"""Weights that are rounded for what they multiply."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tokenizers import Tokenizer

from spillover.edge_server import cli
from spillover.quantize.evaluation.shipped_text import shipped_text
from spillover.quantize.onnx_export import blocks as blocks_module
from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.calibrated import compensation, second_moments, tokens
from spillover.quantize.onnx_export.calibrated.compensation import Compensator
from spillover.quantize.onnx_export.calibrated.kv_scales import kv_scales
from spillover.quantize.onnx_export.calibrated.layer_runs import LayerRuns
from spillover.quantize.onnx_export.calibrated.second_moments import SecondMoments
from spillover.quantize.onnx_export.calibrated.source import CalibratedSource
from spillover.quantize.onnx_export.calibrated.tokens import chunks_of
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export, open_source
from spillover.quantize.onnx_export.options import ExportOptions, HeadBits, KvCacheType
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, matrices
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.texts import calibration_text
from tests import tiny_models
from tests.onnx_sessions import VERSION, Logits, divergence, product_of_blocks, ragged_logits
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


def moments_of(found: Floats, wanted: Floats | None = None) -> SecondMoments:
    moments = SecondMoments(found.shape[1])
    exact = found if wanted is None else wanted
    moments.add(found, exact, np.ones(len(found), np.float32))
    return moments


def compensated(
    matrix: Floats, moments: SecondMoments, size: int, *, is_symmetric: bool = False
) -> Blocks:
    n_rows, n_values = matrix.shape
    return Compensator(moments, size).quantize(
        lambda start, stop: matrix[start:stop], (n_rows, n_values), is_symmetric=is_symmetric
    )


def plain(matrix: Floats, size: int, *, bits: int = 4, is_symmetric: bool = False) -> Blocks:
    n_rows, n_values = matrix.shape
    return blocks_module.quantize(
        lambda start, stop: matrix[start:stop],
        (n_rows, n_values),
        bits=bits,
        is_symmetric=is_symmetric,
        block=size,
    )


@pytest.mark.parametrize("is_symmetric", [False, True])
@pytest.mark.parametrize(("n_values", "size"), [(128, 32), (160, 64), (96, 128)])
def test_a_product_with_real_inputs_is_nearer_than_by_plain_rounding(
    n_values: int, size: int, is_symmetric: bool
) -> None:
    x = inputs(n_values)
    matrix = np.random.RandomState(8).standard_normal((48, n_values)).astype(np.float32)
    found = compensated(matrix, moments_of(x), size, is_symmetric=is_symmetric)
    rounded = plain(matrix, size, is_symmetric=is_symmetric)
    errors = [
        float(np.square(x @ (blocks.values() - matrix).T).mean()) for blocks in (found, rounded)
    ]
    assert errors[0] < 0.3 * errors[1]
    by_operator = product_of_blocks(np.eye(n_values, dtype=np.float32), found)
    np.testing.assert_allclose(by_operator, found.values().T, atol=1e-5)


def test_wide_and_tall_matrices_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs(160)
    matrix = np.random.RandomState(8).standard_normal((48, 160)).astype(np.float32)
    whole = compensated(matrix, moments_of(x), 32)
    monkeypatch.setattr(compensation, "_CHUNK", 1)
    monkeypatch.setattr(compensation, "_FEWEST_ROWS", 20)
    tall = compensated(matrix, moments_of(x), 32)
    # Rows do not depend on each other, but BLAS adds in another order.
    assert float(np.abs(tall.values() - whole.values()).mean()) < 0.02
    monkeypatch.setattr(second_moments, "_MOST_INPUTS", 64)
    wide = compensated(matrix, moments_of(x), 32)
    errors = [
        float(np.square(x @ (blocks.values() - matrix).T).mean())
        for blocks in (wide, plain(matrix, 32))
    ]
    assert wide.values().shape == matrix.shape
    assert errors[0] < 0.8 * errors[1]


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = inputs(64)
    x[:, 5:40] = 0
    matrix = np.random.RandomState(9).standard_normal((16, 64)).astype(np.float32)
    for seen in (x, np.zeros_like(x)):
        values = compensated(matrix, moments_of(seen), 32).values()
        assert np.abs(values - matrix).max() < 1


def test_a_matrix_makes_up_for_what_its_inputs_lack() -> None:
    wanted = inputs(64)
    found = wanted @ np.diag(np.linspace(0.7, 1.2, 64)).astype(np.float32)
    matrix = np.random.RandomState(9).standard_normal((16, 64)).astype(np.float32)
    corrected = moments_of(found, wanted).corrected(matrix)
    exact = wanted @ matrix.T
    errors = [float(np.square(found @ made.T - exact).mean()) for made in (corrected, matrix)]
    assert errors[0] < 0.5 * errors[1]
    np.testing.assert_allclose(moments_of(found).corrected(matrix), matrix, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_layers_one_after_the_other_compute_what_the_graph_computes(
    name: str, tmp_path: Path
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS[name])
    options = ExportOptions(weights="fp32")
    exported = export(tmp_path / "hf", tmp_path / "out", options, silent)
    source = SplitSource(open_source(tmp_path / "hf"))
    runs = LayerRuns(source, options, exported.n_ctx)
    states = runs.entry([tiny_models.IDS])
    for index in range(len(source.spec.layers)):
        runs.advance(index, states, is_exact=True)
    (state,) = states
    head = "embed_tokens.weight" if source.spec.is_tied else HEAD
    logits = state.x @ source.values(head).T * source.spec.logit_scale
    if source.spec.logit_cap is not None:
        logits = source.spec.logit_cap * np.tanh(logits / source.spec.logit_cap)
    wanted = ragged_logits(exported.folder / "model.onnx", tiny_models.IDS, [40])
    np.testing.assert_allclose(logits, wanted, atol=2e-4)


@pytest.fixture(scope="module")
def unseen() -> npt.NDArray[np.int64]:
    """The first tokens of the stories that evaluations read."""
    tokenizer = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    return np.asarray(tokenizer.encode(shipped_text()[:4_000]).ids[:400], np.int64)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, unseen: npt.NDArray[np.int64]) -> Logits:
    folder = tmp_path_factory.mktemp("exact") / "out"
    return logits_of(folder, ExportOptions(weights="fp32"), unseen)


def logits_of(folder: Path, options: ExportOptions, ids: npt.NDArray[np.int64]) -> Logits:
    export(STORYTELLER, folder, options, silent)
    return ragged_logits(folder / "model.onnx", ids, [len(ids)], n_ctx=512)


@pytest.mark.parametrize("head_bits", [8, 4])
def test_a_calibrated_model_loses_less_on_a_text_that_it_has_not_seen_and_is_no_larger(
    head_bits: HeadBits, exact: Logits, unseen: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    kinds = {
        "plain": ExportOptions(block=64, head_bits=head_bits),
        "calibrated": ExportOptions(block=64, head_bits=head_bits, calibration=CALIBRATION),
    }
    losses = [
        divergence(exact, logits_of(tmp_path / kind, made, unseen)) for kind, made in kinds.items()
    ]
    assert losses[1] < 0.85 * losses[0]
    sizes = [(tmp_path / kind / "model.onnx").stat().st_size for kind in kinds]
    assert sizes[0] == sizes[1]


@pytest.mark.skipif(VERSION < (1, 32), reason="older versions have no such cache")
def test_a_kv_cache_in_int8_loses_little(
    exact: Logits, unseen: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    options = ExportOptions(weights="fp32", kv_cache="int8", calibration=CALIBRATION)
    export(STORYTELLER, tmp_path / "out", options, silent)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    caches = [one for one in graph.input if one.name.startswith("past_key_values")]
    assert {one.type.tensor_type.elem_type for one in caches} == {onnx.TensorProto.INT8}
    found = ragged_logits(tmp_path / "out" / "model.onnx", unseen, [100, 290], n_ctx=512)
    assert divergence(exact, found) < 0.02


def write_outlier(folder: Path, name: str) -> Path:
    """A model with a large key channel, whose pair has turned by 9 degrees after 512 positions, and
    by 45 after 2,500."""
    config = {**CONFIGS[name], "max_position_embeddings": 8_192, "rope_theta": 10_000.0}
    config.pop("rope_scaling", None)
    tiny_models.write(folder, config)
    tensors = tiny_models.weights(config)
    for tensor, values in tensors.items():
        if "qkv_proj" in tensor:
            values[config["num_attention_heads"] * config["head_dim"] + 7] *= 8
        elif "k_proj.weight" in tensor:
            values[7] *= 8
    tiny_models.write_safetensors(folder / "model.safetensors", tensors)
    return folder


N_LATE = 2_500


@pytest.mark.parametrize("name", ["llama", "phi4-mini", "smollm3"])
def test_keys_of_late_positions_fit_the_scales_of_a_short_text(name: str, tmp_path: Path) -> None:
    """All turns of a slow pair were not seen in a chunk, and clipped where they came."""
    source = SplitSource(open_source(write_outlier(tmp_path / "hf", name)))
    ids = np.random.RandomState(3).randint(0, 96, N_LATE).astype(np.int64)
    options = ExportOptions(weights="fp32")
    scales = kv_scales(source, options, chunks_of(ids, N_LATE), N_LATE)
    runs = LayerRuns(source, options, N_LATE)
    (state,) = runs.entry([ids])
    keys, values = runs.stage(0, 0, is_exact=True).keys_and_values(state)
    for found, scale in ((keys, scales[0].keys), (values, scales[0].values)):
        assert (np.abs(found) <= 127 * scale[:, None]).all()


@pytest.mark.skipif(VERSION < (1, 32), reason="older versions have no such cache")
def test_a_kv_cache_in_int8_still_loses_little_at_late_positions(tmp_path: Path) -> None:
    source = write_outlier(tmp_path / "hf", "llama")
    ids = np.random.RandomState(3).randint(2, 96, N_LATE).astype(np.int64)
    text = "".join(chr(31 + token) for token in ids.tolist())
    found = []
    texts: dict[KvCacheType, str] = {"float": "", "int8": text}
    for kind, read in texts.items():
        options = ExportOptions(weights="fp32", kv_cache=kind, calibration=read, n_ctx=N_LATE)
        export(source, tmp_path / kind, options, silent)
        path = tmp_path / kind / "model.onnx"
        found.append(ragged_logits(path, ids, [N_LATE - 200, 200], n_ctx=N_LATE)[-200:])
    assert divergence(*found) < 0.1


def test_a_kv_cache_in_int8_needs_a_text(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calibration"):
        export(STORYTELLER, tmp_path / "out", ExportOptions(kv_cache="int8"), silent)


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
    bits = [
        {
            attribute.i
            for node in onnx.load(one.folder / "model.onnx").graph.node
            for attribute in node.attribute
            if attribute.name == "bits" and "layers." in node.name
        }
        for one in made
    ]
    assert bits == [{4}, {4, 8}, {8}]


def test_a_layer_is_rounded_for_what_an_embedding_of_4_bits_gives_it(tmp_path: Path) -> None:
    """Where the embedding is not the head, the text was read with its exact rows."""
    source = SplitSource(open_source(tiny_models.write(tmp_path / "hf", CONFIGS["llama"])))
    chunks = [np.random.RandomState(i).randint(0, 96, 96).astype(np.int64) for i in range(4)]
    name, made = "layers.0.self_attn.q_proj.weight", []
    for bits in get_args(HeadBits):
        options = ExportOptions(weights="int4", head_bits=bits)
        calibrated = CalibratedSource(source, options, chunks, n_ctx=96)
        embedding = calibrated.blocks(EMBEDDING, bits)
        blocks = calibrated.blocks(name, 4)
        assert blocks is not None
        made.append(blocks.values())
    runs = LayerRuns(source, options, 96)
    wanted, found = (
        np.concatenate([state.x for state in runs.entry(chunks, rows)])
        for rows in (None, embedding)
    )
    exact = wanted @ source.values(name).T
    without, with_it = (float(np.square(found @ one.T - exact).mean()) for one in made)
    assert with_it < 0.8 * without


def test_a_text_is_held_where_it_is_small(tmp_path: Path) -> None:
    """It was held as the inputs of the last matrix, and together with what follows of it."""
    source = SplitSource(open_source(tiny_models.write(tmp_path / "hf", CONFIGS["llama"])))
    chunks = [tiny_models.IDS, tiny_models.IDS]
    calibrated = CalibratedSource(source, ExportOptions(weights="int4"), chunks, n_ctx=128)
    for name in matrices(source.spec, 1):
        assert calibrated.blocks(name, 4) is not None
        lists = [value for value in vars(calibrated).values() if isinstance(value, list)]
        arrays = [one for each in lists for one in each if isinstance(one, np.ndarray)]
        widths = [one.shape[1] for one in arrays if one.ndim == 2]
        # With rounding, and without.
        assert widths == [source.spec.n_hidden] * (2 * len(chunks))


def test_as_much_is_read_of_a_text_as_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "N_CHUNK", 64)
    notes = []
    for n_bytes in (1 << 40, 1 << 20, 0):
        monkeypatch.setattr(tokens, "available_memory", lambda n_bytes=n_bytes: n_bytes)
        options = ExportOptions(weights="int4", calibration=CALIBRATION * 2)
        tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
        notes.append(export(tmp_path / "hf", tmp_path / str(n_bytes), options, silent).notes)
    assert notes[0] == ()
    assert notes[1][0].startswith("8 of 15 chunks of the calibration text were read")
    assert notes[2][0].startswith("1 of 15 ")


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
