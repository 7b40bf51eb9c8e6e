"""Graphs with a decoder's inputs and outputs, and next to nothing between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[str | int | None]
MICROSOFT = "com.microsoft"
FLOAT, HALF, LONG, INT = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.INT32,
)
IDS: tuple[str, int, Shape] = ("input_ids", LONG, ["b", "s"])
MASK: tuple[str, int, Shape] = ("attention_mask", LONG, ["b", "t"])
POSITIONS: tuple[str, int, Shape] = ("position_ids", LONG, ["b", "s"])
LOGITS: tuple[str, int, Shape] = ("logits", FLOAT, ["b", "s", 96])


def cache(name: str, dtype: int = FLOAT, heads: int = 2, size: int = 16) -> tuple[str, int, Shape]:
    return name, dtype, ["b", heads, "p", size]


def pair(layer: int, dtype: int = FLOAT, **sizes: int) -> list[tuple[str, int, Shape]]:
    names = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
    return [cache(name, dtype, **sizes) for name in names]


def node(
    op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
) -> NodeProto:
    made: NodeProto = helper.make_node(op, inputs, outputs, domain=domain, **attributes)
    return made


def appended(past: str, present: str) -> NodeProto:
    """The present of plain attention."""
    return node("Concat", [past, f"{past}.new"], [present], axis=2)


def gqa(layer: int, **attributes: Any) -> NodeProto:
    return node(
        "GroupQueryAttention",
        [
            *("q", "k", "v", f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"),
            *("seqlens_k", "total", "cos", "sin"),
        ],
        [f"y.{layer}", f"present.{layer}.key", f"present.{layer}.value"],
        MICROSOFT,
        **{"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, **attributes},
    )


def model(
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]] = (LOGITS,),
    nodes: Sequence[NodeProto] = (),
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    """What is not made by *nodes* comes out of thin air."""
    made = {name for one in nodes for name in one.output}
    free = [name for name, *_ in outputs if name not in made]
    thin_air = [node("Identity", [inputs[0][0]], free[:1])] if free else []
    thin_air += [node("Identity", ["air"], [name]) for name in free[1:]]
    graph = helper.make_graph(
        [*nodes, *thin_air],
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [*constants, numpy_helper.from_array(np.zeros(1, np.float32), "air")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def plain(
    pasts: Sequence[tuple[str, int, Shape]] = (),
    presents: Sequence[str] = (),
    more: Sequence[tuple[str, int, Shape]] = (MASK, POSITIONS),
    logits: tuple[str, int, Shape] = LOGITS,
    nodes: Sequence[NodeProto] = (),
) -> ModelProto:
    """A decoder with plain attention; two layers unless *pasts* and *presents* are given."""
    pasts = pasts or [*pair(0), *pair(1)]
    presents = presents or [name.replace("past_key_values", "present") for name, *_ in pasts]
    outputs = [(name, kind, shape) for name, (_, kind, shape) in zip(presents, pasts, strict=True)]
    return model([IDS, *more, *pasts], [logits, *outputs], nodes)


def with_gqa(**attributes: Any) -> ModelProto:
    """A decoder with GroupQueryAttention whose rotary table has 77 positions."""
    table = [
        numpy_helper.from_array(np.zeros((77, 8), np.float32), name) for name in ("cos", "sin")
    ]
    pasts = [*pair(0), *pair(1)]
    presents = [(name.replace("past_key_values", "present"), *rest) for name, *rest in pasts]
    nodes = [gqa(0, **attributes), gqa(1, **attributes)]
    nodes += [node("Identity", ["air"], [name]) for name in ("q", "k", "v", "seqlens_k", "total")]
    return model([IDS, MASK, *pasts], [LOGITS, *presents], nodes, table)  # type: ignore[list-item]  # the rest of a triple


def saved(proto: ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    onnx.save(proto, folder / name)
    return folder / name
