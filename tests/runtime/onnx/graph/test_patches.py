"""Changes at load: what they do, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.onnx.graph.edit import attribute, sort_nodes
from spillover.runtime.onnx.graph.inspect import inspect
from spillover.runtime.onnx.graph.patches import with_integer_products
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.graph.rewrite import rewritten_to_gqa
from tests import opset24_decoder, plain_decoder, tiny_models
from tests.onnx_sessions import VERSION, masked_logits, prepared_logits, ragged_logits
from tests.runtime.onnx.graph.real_exports import loaded
from tests.tiny_models import CONFIGS, IDS


def test_external_weights_are_not_touched(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["qwen2"])
    options = ExportOptions(weights="int4", interface="genai", external_data=True)
    export(tmp_path / "hf", tmp_path / "out", options, lambda n_done, n_all: None)
    data = tmp_path / "out" / "model.onnx.data"
    before = data.read_bytes()
    prepared = prepare(tmp_path / "out" / "model.onnx", runtime_version=VERSION)
    assert prepared.data_files == (data,)
    assert data.read_bytes() == before
    places = [t for t in prepared.proto.graph.initializer if t.data_location]
    assert places
    assert all(not tensor.raw_data for tensor in places)
    original = masked_logits(tmp_path / "out" / "model.onnx", IDS)
    np.testing.assert_allclose(prepared_logits(prepared, IDS, [48])[-1], original[-1], atol=1e-4)


def test_a_merged_decoder_becomes_its_later_branch(tmp_path: Path) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    folder = plain_decoder.write(tmp_path / "hf", tmp_path / "merged", merged=True)
    path = folder / "decoder_model_merged.onnx"
    kept = prepare(path, runtime_version=VERSION, rewrite=False)
    assert kept.layout.inputs.branch is None
    assert not any(node.op_type == "If" for node in kept.proto.graph.node)
    whole = masked_logits(path, IDS)
    np.testing.assert_allclose(prepared_logits(kept, IDS, [48])[-1], whole[-1], atol=1e-4)
    changed = prepare(path, runtime_version=VERSION)
    assert changed.layout.attention == "gqa"
    found = ragged_logits(changed.proto.SerializeToString(), IDS, [17, 1])
    np.testing.assert_allclose(found, whole, atol=1e-4)


@pytest.mark.skipif(VERSION < (1, 25), reason="this version has no Attention of opset 24")
def test_a_graph_of_opset_24_keeps_its_caches_in_place(
    tmp_path: Path, hf_logits: dict[str, np.typing.NDArray[np.float32]]
) -> None:
    tiny_models.write(tmp_path / "hf", CONFIGS["llama"])
    folder = opset24_decoder.write(tmp_path / "hf", tmp_path / "out")
    prepared = prepare(folder / "model.onnx", runtime_version=VERSION)
    layout = prepared.layout
    assert (layout.attention, layout.logits_form) == ("scatter", "asked")
    assert (layout.inputs.write_indices, layout.inputs.kv_lengths) == (
        "write_indices",
        "nonpad_kv_seqlen",
    )
    found = prepared_logits(prepared, IDS, [13, 4, 1, 1])
    np.testing.assert_allclose(found, hf_logits["llama"][[12, 16, 17, 18]], atol=2e-4)


def levels(proto: ModelProto) -> set[int]:
    nodes = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
    return {attribute(node, "accuracy_level") for node in nodes}


def test_products_use_integers_where_the_graph_leaves_it_open() -> None:
    proto = loaded("transformers_js/llama-q4")
    assert levels(proto) == {0}
    assert with_integer_products(proto, (1, 32)) > 0
    assert levels(proto) == {4}


def test_a_choice_that_the_graph_makes_is_kept() -> None:
    proto = loaded("transformers_js/llama-q4")
    for node in proto.graph.node:
        if node.op_type == "MatMulNBits":
            node.attribute.append(onnx.helper.make_attribute("accuracy_level", 1))
            for found in list(node.attribute):
                if found.name == "accuracy_level" and found.i != 1:
                    node.attribute.remove(found)
    with_integer_products(proto, (1, 32))
    assert levels(proto) == {1}


def test_half_products_are_left_to_runtimes_that_compute_them_soundly() -> None:
    proto = loaded("transformers_js/llama-q4f16")
    assert with_integer_products(proto, (1, 22)) == 0
    assert with_integer_products(proto, (1, 32)) > 0


def test_a_converted_cache_is_kept_in_the_type_it_is_computed_in(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(loaded("transformers_js/llama-q4f16"), path)
    before = inspect(onnx.load(path))
    after = prepare(path, runtime_version=VERSION).layout
    assert {cache.dtype for cache in before.caches} == {"float32"}
    assert {cache.dtype for cache in after.caches} == {"float16"}
    assert after.kv_bytes_per_position * 2 == before.kv_bytes_per_position


def test_nodes_that_stand_in_disorder_are_sorted() -> None:
    proto = loaded("optimum/llama")
    ordered = [node.output[0] for node in proto.graph.node]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    sort_nodes(proto)
    seen = {"", *(value.name for value in proto.graph.input)}
    seen |= {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        assert set(node.input) <= seen
        seen |= set(node.output)
    assert sorted(ordered) == sorted(node.output[0] for node in proto.graph.node)


def test_logits_that_another_output_shares_are_left_whole() -> None:
    proto = loaded("optimum/llama")
    extra = onnx.ValueInfoProto()
    extra.CopyFrom(proto.graph.output[0])
    extra.name = next(node for node in proto.graph.node if "logits" in node.output).output[0]
    head = next(node for node in proto.graph.node if "logits" in node.output)
    proto.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["twice"]))
    extra.name = "twice"
    proto.graph.output.append(extra)
    from spillover.runtime.onnx.graph.patches import with_asked_logits

    layout = inspect(proto)
    assert with_asked_logits(proto, layout) == layout
    assert head.input[0] != "asked.rows"


def tampered(change: str) -> ModelProto:
    """optimum's Llama, whose second layer is no longer plain attention."""
    proto = loaded("optimum/llama")
    softmaxes = [node for node in proto.graph.node if node.op_type == "Softmax"]
    node = softmaxes[1]
    if change == "softcap":
        node.input[0] = _put(proto, node, "Tanh", node.input[0])
    elif change == "other axis":
        onnx.helper.set_model_props(proto, {})
        node.attribute[0].i = -2
    elif change == "noise":
        node.input[0] = _put(proto, node, "Add", node.input[0], 0.05, spread=True)
    elif change == "reversed":
        concat = next(n for n in proto.graph.node if "present.1.key" in n.output)
        concat.input[:] = list(reversed(concat.input))
    elif change == "sharper":
        node.input[0] = _put(proto, node, "Mul", node.input[0], 2.0)
    return proto


def _put(
    proto: ModelProto,
    before: onnx.NodeProto,
    op: str,
    value: str,
    constant: float | None = None,
    *,
    spread: bool = False,
) -> str:
    inputs = [value]
    if constant is not None:
        array = np.full((4, 1, 1) if spread else (), constant, np.float32)
        if spread:
            array *= np.arange(4, dtype=np.float32)[:, None, None]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "tampered.constant"))
        inputs.append("tampered.constant")
    at = list(proto.graph.node).index(before)
    proto.graph.node.insert(at, onnx.helper.make_node(op, inputs, ["tampered"], name="tampered"))
    return "tampered"


@pytest.mark.parametrize("change", ["softcap", "other axis", "reversed"])
def test_what_is_not_plain_attention_is_left_as_it_is(change: str) -> None:
    proto = tampered(change)
    before = proto.SerializeToString(deterministic=True)
    assert rewritten_to_gqa(proto, inspect(proto)) is None
    assert proto.SerializeToString(deterministic=True) == before


def test_a_scale_of_its_own_is_found(tmp_path: Path) -> None:
    proto = tampered("sharper")
    ids = IDS % 64
    original = masked_logits(proto.SerializeToString(), ids)
    layout = inspect(proto)
    changed = rewritten_to_gqa(proto, layout)
    assert changed is not None
    scales = [
        found.f
        for node in proto.graph.node
        for found in node.attribute
        if node.op_type == "GroupQueryAttention" and found.name == "scale"
    ]
    assert scales == pytest.approx([8**-0.5, 2 * 8**-0.5], rel=1e-3)
    onnx.save(proto, tmp_path / "model.onnx")
    prepared = prepare(tmp_path / "model.onnx", runtime_version=VERSION)
    found = ragged_logits(prepared.proto.SerializeToString(), ids, [20])
    np.testing.assert_allclose(found, original, atol=2e-3)


def test_positions_that_are_counted_by_the_past_keep_it_exact() -> None:
    """A shared buffer is longer than what it holds; whoever asks for its length would be misled."""
    proto = loaded("optimum/llama")
    proto.graph.node.append(
        onnx.helper.make_node("Shape", ["past_key_values.0.key"], ["length"], name="length")
    )
    proto.graph.output.append(onnx.helper.make_tensor_value_info("length", TensorProto.INT64, [4]))
    assert rewritten_to_gqa(proto, inspect(proto)) is None
