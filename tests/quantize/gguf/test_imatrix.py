"""What every matrix of a model sees is summed up, and kept in llama.cpp's format."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from spillover.edge_server import cli
from spillover.models.gguf_header import read_header
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf import run
from spillover.quantize.gguf.imatrix import ImatrixOrder, calibrate
from spillover.quantize.gguf.imatrix_file import Imatrix, read_imatrix, write_imatrix
from spillover.quantize.gguf.recipe import Recipe
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.texts import OWN_TEXT
from spillover.runtime.llama.model import LlamaModel
from tests import tiny_bert, tiny_gguf
from tests.quantize.gguf.places import CONFIG, silent

MATRICES = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
TEXT = "what the model reads " * 32
N_CHUNK = 512


@pytest.fixture(scope="module")
def calibrated(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Imatrix:
    folder = tmp_path_factory.mktemp("imatrix")
    text, target = folder / "text.txt", folder / "imatrix.gguf"
    text.write_text(TEXT)
    calibrate(ImatrixOrder(source=source, target=target, text=text, n_threads=1), silent)
    return read_imatrix(target)


def test_every_matrix_of_every_layer_is_there(calibrated: Imatrix) -> None:
    assert set(calibrated.sums) == {f"blk.0.{name}.weight" for name in MATRICES}
    assert all(sums.shape == (1, 256) for sums in calibrated.sums.values())
    assert all(counts.tolist() == [N_CHUNK] for counts in calibrated.counts.values())
    assert (calibrated.n_chunks, calibrated.datasets) == (1, ("text.txt",))


def test_the_sums_are_those_of_what_the_first_matrix_sees(
    source: Path, calibrated: Imatrix
) -> None:
    """It sees the embeddings of the tokens, normalized."""
    model = LlamaModel(source, n_gpu_layers=0, use_extra_bufts=False)
    tokens = model.tokenize(TEXT, add_special=False, parse_special=True)
    opening = list(model.opening)
    read = np.array([*opening, *tokens])[:N_CHUNK]
    weights = GgufSource(source)
    seen = weights.values("embed_tokens.weight")[read]
    seen /= np.sqrt((seen**2).mean(-1, keepdims=True) + CONFIG["rms_norm_eps"])
    seen *= weights.values("layers.0.input_layernorm.weight")
    wanted = (seen**2).mean(0)
    for name in ("attn_q", "attn_k", "attn_v"):
        found = calibrated.means()[f"blk.0.{name}.weight"]
        np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(("n_own", "n_read"), [(1022, N_CHUNK), (1023, 2 * N_CHUNK)])
def test_a_bos_token_takes_the_place_of_a_chunks_first(
    n_own: int, n_read: int, tmp_path: Path
) -> None:
    """As in llama-imatrix: both programs then read the same chunks."""
    source = tiny_gguf.write_model(tmp_path / "m.gguf", CONFIG, "F16", adds_bos=True)
    target, text = tmp_path / "i.gguf", tmp_path / "text.txt"
    text.write_text(("whatthemodelreads" * 99)[:n_own])
    made = calibrate(ImatrixOrder(source=source, target=target, text=text, n_threads=1), silent)
    assert made.n_tokens == n_read


def test_a_text_that_is_too_short_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("short")
    order = ImatrixOrder(
        source=source, target=tmp_path / "i.gguf", text=tmp_path / "text.txt", n_threads=1
    )
    with pytest.raises(QuantizeError, match="has only"):
        calibrate(order, silent)


def test_the_text_that_comes_along_is_long_and_in_many_scripts() -> None:
    text = OWN_TEXT.read_text("utf-8")
    assert len(text.encode()) > 20_000
    for letters in ("é", "ß", "ж", "λ", "の", "的", "는", "ع", "ש", "क", "ต", "ế", "def ", "{"):
        assert letters in text


def test_a_text_that_is_none_is_refused(source: Path, tmp_path: Path) -> None:
    """It was read as so many replacement characters."""
    order = ImatrixOrder(source=source, target=tmp_path / "i.gguf", text=source, n_threads=1)
    with pytest.raises(QuantizeError, match="is not text in UTF-8"):
        calibrate(order, silent)


def test_a_model_with_fewer_positions_than_a_chunk_is_refused(tmp_path: Path) -> None:
    """llama.cpp ended the process at a position that the model has not."""
    source = tiny_bert.write_gguf(tmp_path / "bert.gguf", tiny_bert.weights())
    order = ImatrixOrder(source=source, target=tmp_path / "i.gguf", text=OWN_TEXT, n_threads=1)
    with pytest.raises(QuantizeError, match="reads 48 tokens at most"):
        calibrate(order, silent)


def test_experts_that_saw_nothing_weigh_alike(tmp_path: Path) -> None:
    sums = {"blk.0.ffn_up_exps.weight": np.array([[2, 4], [0, 0]], np.float32)}
    counts = {"blk.0.ffn_up_exps.weight": np.array([2, 0], np.float32)}
    made = Imatrix(sums=sums, counts=counts, n_chunks=1, chunk_size=2, datasets=())
    write_imatrix(tmp_path / "i.gguf", made)
    (means,) = read_imatrix(tmp_path / "i.gguf").means().values()
    assert means.tolist() == [1, 2, 1, 1]


def legacy(n_entries: int = 1, n_values: int = 2) -> bytes:
    """An older file: two values, each multiplied by three calls."""
    name = b"blk.0.attn_q.weight"
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii2f", 3, n_values, 3.0, 6.0)
    return struct.pack("<i", n_entries) + entry


def test_files_in_the_older_format_are_read(tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(legacy())
    found = read_imatrix(tmp_path / "i.dat")
    assert found.means()["blk.0.attn_q.weight"].tolist() == [1, 2]
    assert found.n_chunks == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"text, and no numbers",
        legacy(n_entries=2),
        legacy(n_values=-1),
        legacy(n_values=3),
        legacy()[:-1],
        struct.pack("<ii", 1, -4) + b"x" * 40,
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(content)
    with pytest.raises(QuantizeError):
        read_imatrix(tmp_path / "i")


def test_a_matrix_can_be_computed_on_the_way(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.setattr(run, "OWN_TEXT", tmp_path / "own.txt")
    recipe = Recipe(file_type="IQ4_XS", is_calibrated=True)
    run.run(source, tmp_path / "m.gguf", recipe, silent, n_threads=1, is_checked=False)
    found = read_header(tmp_path / "m.gguf").metadata
    assert found["quantize.imatrix.dataset"] == "own.txt"
    assert found["quantize.imatrix.entries_count"] == len(MATRICES)


def test_the_command_writes_a_matrix(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["quantize", "imatrix", str(source), str(tmp_path / "i.gguf"), "--threads", "1"]
    assert cli.run([*arguments, "--text", str(tmp_path / "text.txt")]) == 0
    assert "7 matrices, 512 tokens" in capfd.readouterr().out
    assert len(read_imatrix(tmp_path / "i.gguf").sums) == 7


N_EXPERTS, N_ASKED = 4, 2


def with_experts(path: Path) -> Path:
    """A model whose MLP is a choice of experts."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(N_ASKED)
    tiny_gguf.add_byte_vocabulary(writer, 96, ("a", "b"))
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (96, 64),
        "output_norm": (64,),
        "blk.0.attn_norm": (64,),
        "blk.0.ffn_norm": (64,),
        "blk.0.ffn_gate_inp": (N_EXPERTS, 64),
        **{f"blk.0.attn_{name}": (64, 64) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}_exps": (N_EXPERTS, 64, 64) for name in ("gate", "up", "down")},
    }
    draw = np.random.RandomState(7)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(np.float32))
    return tiny_gguf.finished(writer, path)


def test_each_expert_counts_what_it_sees(tmp_path: Path) -> None:
    source, text = with_experts(tmp_path / "m.gguf"), tmp_path / "text.txt"
    text.write_text(TEXT)
    target = tmp_path / "imatrix.gguf"
    calibrate(ImatrixOrder(source=source, target=target, text=text, n_threads=1), silent)
    found = read_imatrix(target)
    # All experts together see what the matrix that chooses among them sees, once for each asked.
    chooses = found.sums["blk.0.ffn_gate_inp.weight"][0]
    for name in ("gate", "up"):
        matrix = f"blk.0.ffn_{name}_exps.weight"
        assert found.sums[matrix].shape == (N_EXPERTS, 64)
        assert found.counts[matrix].sum() == N_ASKED * N_CHUNK
        np.testing.assert_allclose(found.sums[matrix].sum(0), N_ASKED * chooses, rtol=1e-3)
    assert found.counts["blk.0.ffn_down_exps.weight"].sum() == N_ASKED * N_CHUNK
