"""Writes a Llama as optimum does: attention of plain operators, KV inputs as long as the past."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.quantize.onnx_export.rope import caches
from spillover.quantize.onnx_export.source import WeightSource


def write(source: Path, target: Path, *, merged: bool = False) -> Path:
    """A folder with the graph of a Hugging Face folder, and its tokenizer. *merged*: one graph
    with a branch for a first call without a past, and one for all later ones."""
    target.mkdir(parents=True)
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    model = _merged(HfSource(source)) if merged else _single(HfSource(source))
    onnx.checker.check_model(model)
    onnx.save(model, target / ("decoder_model_merged.onnx" if merged else "model.onnx"))
    return target


def write_orderless(source: Path, target: Path) -> Path:
    """The same of an old exporter: the graph is only right for one new token at a time."""
    read, graph = HfSource(source), GraphBuilder(Initializers(None))
    OrderlessDecoder(read, graph, "", has_past=True).build("logits", "present")
    target.mkdir(parents=True)
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    onnx.save(model_of(read, graph, []), target / "model.onnx")
    return target


def _single(source: WeightSource) -> onnx.ModelProto:
    graph = GraphBuilder(Initializers(None))
    Decoder(source, graph, "", has_past=True).build("logits", "present")
    return model_of(source, graph, [])


def _merged(source: WeightSource) -> onnx.ModelProto:
    graph = GraphBuilder(Initializers(None))
    branches = {}
    for name, has_past in (("then", True), ("else", False)):
        graph.nodes = []
        decoder = Decoder(source, graph, f"{name}.", has_past=has_past)
        decoder.build(f"{name}.logits", f"{name}.present")
        outputs = output_infos(source, f"{name}.logits", f"{name}.present")
        branches[name] = helper.make_graph(graph.nodes, name, [], outputs)
    node = helper.make_node(
        "If",
        ["use_cache_branch"],
        [output.name for output in output_infos(source, "logits", "present")],
        then_branch=branches["then"],
        else_branch=branches["else"],
    )
    branch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph.nodes = [node]
    return model_of(source, graph, [branch])


def model_of(
    source: WeightSource, builder: GraphBuilder, more_inputs: list[ValueInfoProto], opset: int = 17
) -> onnx.ModelProto:
    info, long = helper.make_tensor_value_info, TensorProto.INT64
    inputs = [
        info("input_ids", long, ["batch_size", "sequence_length"]),
        info("attention_mask", long, ["batch_size", "total_sequence_length"]),
        info("position_ids", long, ["batch_size", "sequence_length"]),
        *cache_infos(source, "past_key_values", "past_sequence_length"),
        *more_inputs,
    ]
    outputs = output_infos(source, "logits", "present")
    graph: GraphProto = helper.make_graph(
        builder.nodes, "decoder", inputs, outputs, initializer=builder.initializers.protos
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def output_infos(source: WeightSource, logits: str, present: str) -> list[ValueInfoProto]:
    shape: list[str | int | None] = ["batch_size", "sequence_length", source.spec.n_vocab]
    return [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, shape),
        *cache_infos(source, present, "total_sequence_length"),
    ]


def cache_infos(source: WeightSource, stem: str, length: str) -> list[ValueInfoProto]:
    spec = source.spec
    return [
        helper.make_tensor_value_info(
            f"{stem}.{layer}.{part}",
            TensorProto.FLOAT,
            ["batch_size", spec.n_head_kv, length, spec.n_per_head],
        )
        for layer in range(len(spec.layers))
        for part in ("key", "value")
    ]


class Decoder:
    """The nodes of one decoder; names begin with *prefix*."""

    def __init__(
        self, source: WeightSource, graph: GraphBuilder, prefix: str, *, has_past: bool
    ) -> None:
        self.graph = graph
        self._source = source
        self._spec = source.spec
        self._prefix = prefix
        self._has_past = has_past
        self._n = 0
        cosines, sines = caches(self._spec.rotaries[0].frequencies, 1.0, self._spec.n_ctx)
        self._cosines = self._weight("rope.cos", np.concatenate([cosines, cosines], -1))
        self._sines = self._weight("rope.sin", np.concatenate([sines, sines], -1))

    def build(self, logits: str, present: str) -> None:
        x = self._embedded()
        bias = self._attention_bias()
        rotation = [
            self._add("Unsqueeze", self._add("Gather", table, "position_ids", axis=0), self._int(1))
            for table in (self._cosines, self._sines)
        ]
        for layer in range(len(self._spec.layers)):
            name = f"layers.{layer}"
            attended = self._attention(
                self._norm(x, f"{name}.input_layernorm"), name, layer, bias, rotation, present
            )
            x = self._add("Add", x, attended)
            x = self._add(
                "Add", x, self._mlp(self._norm(x, f"{name}.post_attention_layernorm"), name)
            )
        self._head(self._norm(x, "norm"), logits)

    def _embedded(self) -> str:
        embedding = self._weight("embed_tokens.weight", self._values("embed_tokens.weight"))
        return self._add("Gather", embedding, "input_ids", axis=0)

    def _head(self, x: str, logits: str) -> None:
        name = "embed_tokens" if self._spec.is_tied else "lm_head"
        self.graph.add("MatMul", [x, self._matrix(name)], [logits])

    def _product(self, x: str, name: str) -> str:
        return self._add("MatMul", x, self._matrix(name))

    def _attention(
        self, x: str, name: str, layer: int, bias: str, rotation: list[str], present: str
    ) -> str:
        spec = self._spec
        query = self._rotated(self._heads(x, f"{name}.self_attn.q_proj", spec.n_head), rotation)
        key = self._rotated(self._heads(x, f"{name}.self_attn.k_proj", spec.n_head_kv), rotation)
        value = self._heads(x, f"{name}.self_attn.v_proj", spec.n_head_kv)
        keys = self._repeated(self._present(key, layer, "key", present))
        values = self._repeated(self._present(value, layer, "value", present))
        turned = self._add("Transpose", keys, perm=[0, 1, 3, 2])
        scale = self.graph.constant(spec.n_per_head**-0.5, np.float32)
        scores = self._add("Mul", self._add("MatMul", query, turned), scale)
        shares = self._add("Softmax", self._add("Add", scores, bias), axis=-1)
        mixed = self._add("Transpose", self._add("MatMul", shares, values), perm=[0, 2, 1, 3])
        flat = self._add("Reshape", mixed, self._int(0, 0, spec.n_head * spec.n_per_head))
        return self._product(flat, f"{name}.self_attn.o_proj")

    def _present(self, new: str, layer: int, part: str, present: str) -> str:
        name = f"{present}.{layer}.{part}"
        if not self._has_past:
            return self.graph.add("Identity", [new], [name])
        past = f"past_key_values.{layer}.{part}"
        return self.graph.add("Concat", [past, new], [name], axis=2)

    def _repeated(self, x: str) -> str:
        """Each shared head for all the query heads of its group."""
        spec = self._spec
        n_group = spec.n_head // spec.n_head_kv
        wide = self._add("Unsqueeze", x, self._int(2))
        shape = self._int(1, 1, n_group, 1, 1)
        expanded = self._add("Expand", wide, shape)
        return self._add("Reshape", expanded, self._int(0, spec.n_head, -1, spec.n_per_head))

    def _heads(self, x: str, name: str, n_head: int) -> str:
        product = self._product(x, name)
        split = self._add("Reshape", product, self._int(0, 0, n_head, self._spec.n_per_head))
        return self._add("Transpose", split, perm=[0, 2, 1, 3])

    def _rotated(self, x: str, rotation: list[str]) -> str:
        half, end = self._spec.n_per_head // 2, self._spec.n_per_head
        first = self._add("Slice", x, self._int(0), self._int(half), self._int(3))
        second = self._add("Slice", x, self._int(half), self._int(end), self._int(3))
        turned = self._add("Concat", self._add("Neg", second), first, axis=-1)
        return self._add(
            "Add", self._add("Mul", x, rotation[0]), self._add("Mul", turned, rotation[1])
        )

    def _attention_bias(self) -> str:
        """0 where a position is seen, -1e9 where not, (rows, 1, positions, all positions)."""
        seen = self._add("Shape", "attention_mask", start=1, end=2)
        new = self._add("Shape", "input_ids", start=1, end=2)
        zero, one = self.graph.constant(0), self.graph.constant(1)
        n_seen, n_new = self._add("Squeeze", seen), self._add("Squeeze", new)
        keys = self._add("Range", zero, n_seen, one)
        queries = self._add("Range", self._add("Sub", n_seen, n_new), n_seen, one)
        is_future = self._add("Greater", keys, self._add("Unsqueeze", queries, self._int(1)))
        wide = self._add("Unsqueeze", "attention_mask", self._int(1, 2))
        is_given = self._add("Cast", wide, to=TensorProto.BOOL)
        is_visible = self._add("And", self._add("Not", is_future), is_given)
        never = self.graph.constant(-1e9, np.float32)
        return self._add("Where", is_visible, self.graph.constant(0.0, np.float32), never)

    def _mlp(self, x: str, name: str) -> str:
        gate = self._product(x, f"{name}.mlp.gate_proj")
        opened = self._add("Mul", gate, self._add("Sigmoid", gate))
        up = self._product(x, f"{name}.mlp.up_proj")
        return self._product(self._add("Mul", opened, up), f"{name}.mlp.down_proj")

    def _norm(self, x: str, name: str) -> str:
        squares = self._add("Pow", x, self.graph.constant(2.0, np.float32))
        mean = self._mean(squares)
        epsilon = self.graph.constant(self._spec.norm_epsilon, np.float32)
        size = self._add("Sqrt", self._add("Add", mean, epsilon))
        weight = self._weight(f"{name}.weight", self._values(f"{name}.weight"))
        return self._add("Mul", self._add("Div", x, size), weight)

    def _mean(self, x: str) -> str:
        return self._add("ReduceMean", x, axes=[-1])

    def _matrix(self, name: str) -> str:
        return self._weight(f"{name}.turned", self._values(f"{name}.weight").T)

    def _values(self, name: str) -> np.typing.NDArray[np.float32]:
        return self._source.values(name).astype(np.float32)

    def _weight(self, name: str, values: np.typing.NDArray[np.float32]) -> str:
        known = {proto.name for proto in self.graph.initializers.protos}
        if name not in known:
            self.graph.initializers.add(name, np.ascontiguousarray(values))
        return name

    def _int(self, *values: int) -> str:
        return self.graph.constant(values)

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        self._n += 1
        return self.graph.add(op, inputs, [f"{self._prefix}{op}.{self._n}"], **attributes)


class OrderlessDecoder(Decoder):
    """Every new token sees every other, which is right for one."""

    def _attention_bias(self) -> str:
        wide = self._add("Unsqueeze", "attention_mask", self._int(1, 2))
        given = self._add("Cast", wide, to=TensorProto.BOOL)
        never = self.graph.constant(-1e9, np.float32)
        return self._add("Where", given, self.graph.constant(0.0, np.float32), never)
