"""Layouts are told from the graph: its inputs, its outputs and its operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.inspect import inspect
from tests.runtime.onnx.graph import tiny_graphs as tiny
from tests.runtime.onnx.graph.tiny_graphs import FLOAT, HALF, INT, LONG, MICROSOFT, Shape


def named(pasts: list[str], presents: list[str]) -> ModelProto:
    return tiny.plain([tiny.cache(name) for name in pasts], presents)


NAMES = {
    "optimum": (
        ["past_key_values.0.key", "past_key_values.0.value"],
        ["present.0.key", "present.0.value"],
    ),
    "present_key_values": (
        ["past_key_values.0.key", "past_key_values.0.value"],
        ["present_key_values.0.key", "present_key_values.0.value"],
    ),
    "past_key_0": (["past_key_0", "past_value_0"], ["present_key_0", "present_value_0"]),
    "past_key_values_key_0": (
        ["past_key_values_key_0", "past_key_values_value_0"],
        ["present_key_0", "present_value_0"],
    ),
    "key_cache.0": (
        ["key_cache.0", "value_cache.0"],
        ["updated_key_cache.0", "updated_value_cache.0"],
    ),
    "past.0.key": (["past.0.key", "past.0.value"], ["present.0.key", "present.0.value"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_kv_cache_is_found_by_the_names_that_exporters_give(name: str) -> None:
    pasts, presents = NAMES[name]
    caches = inspect(named(pasts, presents)).caches
    assert [(cache.past, cache.present) for cache in caches] == list(
        zip(pasts, presents, strict=True)
    )
    assert [(cache.layer, cache.kind) for cache in caches] == [(0, "key"), (0, "value")]


def test_the_kv_cache_is_found_by_what_nodes_do_with_it() -> None:
    nodes = [tiny.appended("cache_key_3", "a"), tiny.appended("cache_value_3", "b")]
    pasts = [tiny.cache("cache_key_3"), tiny.cache("cache_value_3")]
    air = [tiny.node("Identity", ["air"], [f"{name}.new"]) for name, *_ in pasts]
    caches = inspect(tiny.plain(pasts, ["a", "b"], nodes=[*air, *nodes])).caches
    assert [(cache.layer, cache.present) for cache in caches] == [(3, "a"), (3, "b")]


def test_keys_and_values_in_one_tensor_are_known() -> None:
    past: tuple[str, int, Shape] = ("past_0", FLOAT, [2, "b", 4, "p", 16])
    (cache,) = inspect(tiny.plain([past], ["present_0"])).caches
    assert (cache.kind, cache.batch_axis, cache.length_axis) == ("both", 1, 3)


def test_layers_may_differ_in_shape_and_type_and_numbers_may_be_missing() -> None:
    pasts = [*tiny.pair(0, heads=8, size=256), *tiny.pair(3, HALF, heads=1, size=512)]
    layout = inspect(tiny.plain(pasts))
    assert [cache.layer for cache in layout.caches] == [0, 0, 3, 3]
    assert [cache.shape[1] for cache in layout.caches] == [8, 8, 1, 1]
    assert layout.n_layer == 2
    assert layout.kv_bytes_per_position == 2 * (8 * 256 * 4 + 512 * 2)


def test_ten_layers_stand_in_the_order_of_their_numbers() -> None:
    pasts = [cache for layer in range(11) for cache in tiny.pair(layer)]
    layers = [cache.layer for cache in inspect(tiny.plain(pasts)).caches[::2]]
    assert layers == list(range(11))


def test_plain_attention_grows() -> None:
    layout = inspect(tiny.plain())
    assert (layout.attention, layout.logits_form) == ("growing", "all")
    assert (layout.inputs.mask, layout.inputs.positions) == ("attention_mask", "position_ids")
    assert (layout.n_vocab, layout.n_ctx, layout.batch_size) == (96, None, None)


def test_group_query_attention_shares_and_its_table_limits_the_context() -> None:
    layout = inspect(tiny.with_gqa())
    assert (layout.attention, layout.n_ctx) == ("gqa", 77)


def test_a_merged_decoder_is_known_by_its_input() -> None:
    branch: tuple[str, int, Shape] = ("use_cache_branch", TensorProto.BOOL, [1])
    layout = inspect(tiny.plain(more=[tiny.MASK, branch]))
    assert layout.inputs.branch == "use_cache_branch"


@pytest.mark.parametrize("name", ["num_logits_to_keep", "logits_to_keep"])
def test_the_number_of_wanted_logits_may_be_an_input(name: str) -> None:
    layout = inspect(tiny.plain(more=[tiny.MASK, (name, LONG, [])]))
    assert layout.inputs.n_logits == name


@pytest.mark.parametrize(
    ("shape", "form"),
    [(["b", "s", 96], "all"), (["b", 1, 96], "last"), (["b", 96], "last")],
)
def test_the_form_of_the_logits(shape: Shape, form: str) -> None:
    assert inspect(tiny.plain(logits=("logits", FLOAT, shape))).logits_form == form


@pytest.mark.parametrize(
    ("dtype", "name"), [(FLOAT, "float32"), (HALF, "float16"), (TensorProto.INT8, "int8")]
)
def test_types_of_the_kv_cache(dtype: int, name: str) -> None:
    layout = inspect(tiny.plain([*tiny.pair(0, dtype)]))
    assert {cache.dtype for cache in layout.caches} == {name}


def test_a_cache_of_fixed_length_limits_the_context() -> None:
    pasts: list[tuple[str, int, Shape]] = [
        (f"past_key_values.0.{part}", FLOAT, [1, 2, 640, 16]) for part in ("key", "value")
    ]
    layout = inspect(tiny.plain(pasts))
    assert (layout.n_ctx, layout.batch_size) == (640, 1)
    assert layout.caches[0].capacity == 640


def test_initializers_that_are_listed_as_inputs_are_none() -> None:
    proto = tiny.plain()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "w"))
    proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [3]))
    assert inspect(proto).inputs.ids == "input_ids"


def operator(op: str, domain: str = MICROSOFT, **attributes: Any) -> ModelProto:
    return tiny.plain(nodes=[tiny.node(op, ["air"], ["unused"], domain, **attributes)])


def with_input(name: str, dtype: int = LONG, shape: Shape = ("b", "s")) -> ModelProto:
    return tiny.plain(more=[tiny.MASK, (name, dtype, shape)])


def inside_if(op: str) -> ModelProto:
    """An operator that hides in a branch."""
    inner = helper.make_graph(
        [tiny.node(op, ["air"], ["z"], MICROSOFT)],
        "inner",
        [],
        [helper.make_tensor_value_info("z", FLOAT, None)],
    )
    condition = tiny.node("If", ["air"], ["zz"], then_branch=inner, else_branch=inner)
    return tiny.plain(nodes=[condition])


def in_bfloat16() -> ModelProto:
    proto = tiny.with_gqa()
    for tensor in proto.graph.initializer:
        if tensor.name in ("cos", "sin"):
            tensor.data_type = TensorProto.BFLOAT16
    return proto


def without_cache() -> ModelProto:
    return tiny.model([tiny.IDS, tiny.MASK])


REFUSED = {
    "PagedAttention": operator("PagedAttention"),
    "EPContext": operator("EPContext"),
    "LinearAttention": operator("LinearAttention"),
    "CausalConvWithState": operator("CausalConvWithState"),
    "MatMulNBitsMlp": operator("MatMulNBitsMlp"),
    "BeamSearch": operator("BeamSearch"),
    "PagedAttention, ": inside_if("PagedAttention"),
    "'com.example'": operator("Anything", "com.example"),
    "GroupQueryAttention computes in bfloat16": in_bfloat16(),
    "sliding_window_cache": tiny.with_gqa(sliding_window_cache=1),
    "no KV cache": without_cache(),
    "encoder-decoder": with_input("encoder_hidden_states", FLOAT, ["b", "n", 8]),
    "multimodal": with_input("inputs_embeds", FLOAT, ["b", "s", 8]),
    "paged KV cache": with_input("block_table", INT, ["b", "n"]),
    "hybrid": with_input("past_conv.0", FLOAT, ["b", 8, 3]),
    "'token_type_ids' is unknown": with_input("token_type_ids"),
    "'position_ids' has 3": with_input("position_ids", LONG, [3, "b", "s"]),
    "no input for tokens": tiny.model([tiny.MASK]),
    "no logits": tiny.plain(logits=("logits", FLOAT, ["b"])),
    "unsupported type int64": tiny.plain(logits=("logits", LONG, ["b", "s", 96])),
    "exactly 64 tokens": tiny.model(
        [("input_ids", LONG, [1, 64]), *tiny.pair(0)],
        [tiny.LOGITS, tiny.cache("present.0.key"), tiny.cache("present.0.value")],
    ),
    "has 3 dimensions": tiny.plain([("past_key_values.0.key", FLOAT, ["b", "p", 16])]),
    "heads or their size open": tiny.plain(
        [("past_key_values.0.key", FLOAT, ["b", "h", "p", "d"])]
    ),
    "claims the shape": tiny.plain(
        [("past_key_values.0.key", FLOAT, ["b", 1 << 30, "p", 1 << 30])]
    ),
    "holds int64": tiny.plain([tiny.cache("past_key_values.0.key", LONG)]),
    "of the same layer": named(
        ["past_key_0", "past_key_values.0.key"], ["present_key_0", "present.0.key"]
    ),
    "disagree about the number of rows": tiny.plain(
        [
            ("past_key_values.0.key", FLOAT, [2, 2, "p", 16]),
            ("past_key_values.0.value", FLOAT, [3, 2, "p", 16]),
        ]
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_graphs_that_cannot_run_are_refused_by_name(what: str) -> None:
    with pytest.raises(ModelError) as refused:
        inspect(REFUSED[what])
    assert what in str(refused.value)


def test_bfloat16_is_left_to_other_devices() -> None:
    assert inspect(in_bfloat16(), on_cpu=False).attention == "gqa"
