"""GGUF files become graphs with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from spillover.edge_server import cli
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.split_source import SplitSource
from tests import tiny_gguf, tiny_models
from tests.onnx_sessions import divergence, ragged_logits


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("Q4_0", 8)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
def test_blocks_are_taken_over_to_the_last_bit(
    kind: str, bits: int, name: str, tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name], kind)
    source = SplitSource(GgufSource(path))
    for tensor in source.names():
        if len(source.shape(tensor)) == 2:
            blocks = source.blocks(tensor, bits)
            assert blocks is not None
            np.testing.assert_array_equal(blocks.values(), source.values(tensor))


def test_a_model_in_parts_has_the_weights_of_one_file(tmp_path: Path) -> None:
    config = tiny_models.CONFIGS["llama"]
    whole = GgufSource(tiny_gguf.write_model(tmp_path / "whole.gguf", config, "Q8_0"))
    tiny_gguf.write_model(tmp_path / "m.gguf", config, "Q8_0", n_part=9)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 1
    source = GgufSource(parts[-1])
    assert source.path == parts[0]
    assert source.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(source.values(name), whole.values(name))
    parts[1].unlink()
    with pytest.raises(ExportError, match="is not beside it"):
        GgufSource(parts[0])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_any_type_can_be_exported(kind: str, tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind)
    whole, small = tmp_path / "fp32", tmp_path / "int8"
    export(path, whole, ExportOptions(weights="fp32"), lambda n_done, n_all: None)
    export(path, small, ExportOptions(weights="int8"), lambda n_done, n_all: None)
    logits = [ragged_logits(f / "model.onnx", tiny_models.IDS, [40]) for f in (whole, small)]
    assert divergence(*logits) < 0.05


def bits_of_products(graph: Path) -> list[int]:
    nodes = onnx.load(graph).graph.node
    products = [node for node in nodes if node.op_type == "MatMulNBits"]
    found = {
        attribute.i for node in products for attribute in node.attribute if attribute.name == "bits"
    }
    return sorted(found)


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q8_0", [8]), ("Q4_0", [4]), ("Q4_1", [8]), ("Q5_1", [8]), ("F16", [4, 8])]
)
def test_a_quantized_file_keeps_its_weights_unless_asked_otherwise(
    kind: str, bits: list[int], tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind)
    exported = export(path, tmp_path / "out", ExportOptions(), lambda n_done, n_all: None)
    assert bits_of_products(tmp_path / "out" / "model.onnx") == bits
    assert not [note for note in exported.notes if "rounds" in note]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("name", ["llama", "smollm", "qwen3"])
def test_a_faithful_export_holds_the_stored_weights_to_the_last_bit(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name], kind)
    logits = []
    for weights in ("faithful", "fp32"):
        options = ExportOptions(weights=weights)
        export(path, tmp_path / weights, options, lambda n_done, n_all: None)
        proto = onnx.load(tmp_path / weights / "model.onnx")
        for node in proto.graph.node:  # sums of products in fp32, as a reference
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        logits.append(ragged_logits(proto.SerializeToString(), tiny_models.IDS, [40]))
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-4)


def test_rounding_rounded_weights_again_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("Q4_1", "Q4_0"):
        tiny_gguf.write_model(tmp_path / f"{kind}.gguf", tiny_models.CONFIGS["llama"], kind)
    for kind, weights in (("Q4_1", "int4"), ("Q4_1", "int8"), ("Q4_0", "int4")):
        target = tmp_path / f"{kind}-{weights}"
        arguments = [str(tmp_path / f"{kind}.gguf"), str(target), "--weights", weights]
        assert cli.run(["export", "onnx", *arguments]) == 0
        is_warned = "rounds weights again that the file stores in Q4_1" in capsys.readouterr().err
        assert is_warned == ((kind, weights) == ("Q4_1", "int4"))
