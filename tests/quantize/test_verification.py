"""A new model is loaded, has to write, and is compared with its source before it gets its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from spillover.edge_server import cli
from spillover.models.gguf_header import read_header
from spillover.quantize import export_check
from spillover.quantize.conversion.fidelity import mean_divergence, read_slices, sample
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf_export import export as gguf_export
from spillover.quantize.onnx_export import export as onnx_export
from spillover.quantize.onnx_export.calibrated import exact_logits
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_parts import OnnxParts
from spillover.quantize.sample_texts import PROSE
from spillover.quantize.verification import Verdict, judge, most_divergence
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.options import EngineOptions
from tests import tiny_models
from tests.storyteller import STORYTELLER


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def broken_after(write: Callable[..., Any], breaks: Callable[[Path], None]) -> Callable[..., Any]:
    """A writer whose result is another one than it should be."""

    def wrong(*given: Any, **named: Any) -> Any:
        made = write(*given, **named)
        breaks(next(one for one in given if isinstance(one, Path)))
        return made

    return wrong


def forget_a_matrix(path: Path) -> None:
    header = read_header(path)
    matrix = next(t for t in header.tensors if t.name == "blk.3.ffn_down.weight")
    content = np.memmap(path, np.uint8, "r+")
    start = header.data_offset + matrix.offset
    content[start : start + 2 * int(np.prod(matrix.shape))] = 0


def turn_the_weights(folder: Path) -> None:
    content = np.memmap(folder / "model.onnx.data", np.uint8, "r+")
    content[:] = np.roll(np.array(content), 4096)


def test_a_gguf_file_computes_what_its_folder_does(tmp_path: Path) -> None:
    made = gguf_export.export(STORYTELLER, tmp_path / "m.gguf", "F16", silent)
    assert made.verdict is not None
    assert 0 <= made.verdict.divergence < 0.005
    assert made.verdict.n_positions > 10


def test_a_gguf_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = broken_after(gguf_export._write, forget_a_matrix)
    monkeypatch.setattr(gguf_export, "_write", wrong)
    with pytest.raises(QuantizeError, match=r"from its source's, and 0\.05 are allowed"):
        gguf_export.export(STORYTELLER, tmp_path / "m.gguf", "F16", silent)
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_model_is_compared_with_its_source(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", "onnx", str(STORYTELLER), str(tmp_path / "m"), "--weights", "int4"]
    assert cli.run(asked) == 0
    found = capfd.readouterr().out.split("KL divergence from the source: ")[1]
    assert 0 < float(found.split()[0]) < most_divergence(4.5) / 2


def test_an_onnx_model_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = broken_after(onnx_export._write_graph, turn_the_weights)
    monkeypatch.setattr(onnx_export, "_write_graph", wrong)
    asked = ["export", "onnx", str(STORYTELLER), str(tmp_path / "m"), "--external-data"]
    assert cli.run(asked) == 1
    told = capfd.readouterr().err
    assert "nats from its source's" in told or "no finite numbers" in told
    assert list(tmp_path.iterdir()) == []


def know_only_what_is_read(folder: Path) -> None:
    """Leave numbers only in the embeddings of the tokens of the text that the check reads."""
    model, tokenizer = onnx.load(folder / "model.onnx"), OnnxParts(folder).tokenizer
    known = np.full((len(tokenizer.pieces), 1), np.nan, np.float32)
    known[tokenizer.tokenize(PROSE[:32], add_special=True, parse_special=False)] = 1
    graph = model.graph
    embedding = next(node for node in graph.node if "embedding" in node.output)
    embedding.output[:] = ["embedding.any"]
    graph.initializer.append(numpy_helper.from_array(known, "known"))
    graph.node.append(helper.make_node("Gather", ["known", "input_ids"], ["known.rows"]))
    graph.node.append(helper.make_node("Mul", ["embedding.any", "known.rows"], ["embedding"]))
    onnx.save_model(model, folder / "model.onnx")


def test_an_onnx_model_that_cannot_go_on_from_what_it_writes_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    wrong = broken_after(onnx_export._write_graph, know_only_what_is_read)
    monkeypatch.setattr(onnx_export, "_write_graph", wrong)
    assert cli.run(["export", "onnx", str(source), str(tmp_path / "m")]) == 1
    assert "the new file computes no finite numbers" in capfd.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_model_is_kept_where_memory_for_the_comparison_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    monkeypatch.setattr(export_check, "available_memory", lambda: 1 << 20)
    assert cli.run(["export", "onnx", str(source), str(tmp_path / "m")]) == 0
    assert "was not compared with its source: memory is short" in capfd.readouterr().err


def test_a_tokenizer_that_cannot_be_read_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny_models.write(tmp_path / "hf", tiny_models.CONFIGS["llama"])
    monkeypatch.setattr(onnx_export, "_write_graph", lambda *_: pytest.fail("it was exported"))
    assert cli.run(["export", "onnx", str(source), str(tmp_path / "m")]) == 1
    assert "Spillover could not run the new model: the tokenizer" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["gemma2", "phi3-long", "qwen3"])
def test_the_sources_own_predictions_are_those_of_llama_cpp(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_models.write_byte_level(tmp_path / "hf", tiny_models.CONFIGS[name])
    made = gguf_export.export(source, tmp_path / "m.gguf", "F32", silent, is_checked=False)
    assert made.verdict is None
    stored = open_source(source)
    n_ctx = stored.spec.n_ctx
    options = EngineOptions(n_ctx=n_ctx, n_kv=n_ctx, n_parallel=1, n_prefix_cached=0)
    backend = open_gguf(made.path, options).backend
    tokens = sample(backend, backend.info.n_kv)[:8]
    ends, logits = zip(*read_slices(backend, tokens), strict=True)
    backend.close()
    places = [end - 1 for end in ends]
    for most_bytes, allowed in ((1 << 30, 0.002), (0, 0.05)):  # exact, and in 8 bits
        monkeypatch.setattr(exact_logits, "_MOST_EXACT_BYTES", most_bytes)
        exact = exact_logits.exact_logits(stored, tokens, places, n_ctx)
        assert mean_divergence(list(zip(exact, logits, strict=True))) < allowed


def test_what_is_allowed_falls_with_the_bits() -> None:
    allowed = [most_divergence(bits) for bits in (1.6, 2.5, 3.4, 4.5, 5.5, 6.6, 8.5, 16.0, 32.0)]
    assert allowed == [4.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.1, 0.05, 0.05]
    for divergence in (1.1, float("nan")):
        with pytest.raises(QuantizeError, match="nats from its source's"):
            judge(Verdict(divergence=divergence, n_positions=1), most_divergence(4.5), "")
