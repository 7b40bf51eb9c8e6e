"""A decoder as an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper

from spillover.quantize.onnx_export.graph import interface
from spillover.quantize.onnx_export.graph.attention_layers import AttentionLayers, KvScales
from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.quantize.onnx_export.graph.layer_norms import LayerNorms
from spillover.quantize.onnx_export.graph.linear import LinearLayers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource

OPSET, IR_VERSION = 21, 10
"""ONNX Runtime 1.20 and later read them."""

Progress = Callable[[int, int], None]
"""Called with the number of layers done and the number of all layers."""


def build(
    source: WeightSource,
    options: ExportOptions,
    initializers: Initializers,
    *,
    n_ctx: int,
    progress: Progress,
    kv_scales: Sequence[KvScales] = (),
) -> onnx.ModelProto:
    """Build the model; its weights go to *initializers* as they are read. *kv_scales*: of each
    layer, for a KV cache in int8."""
    return Decoder(source, options, initializers, kv_scales).model(n_ctx, progress)


STAGES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The matrices of a layer, in the order of its products. Those of one stage multiply the same."""


def stage_of(matrix: str) -> int:
    """The stage that multiplies with a matrix such as "mlp.up_proj"."""
    return next(index for index, names in enumerate(STAGES) if matrix in names)


class Decoder:
    """Makes one model, of all layers or of a part."""

    def __init__(
        self,
        source: WeightSource,
        options: ExportOptions,
        initializers: Initializers,
        kv_scales: Sequence[KvScales] = (),
    ) -> None:
        self._spec = source.spec
        self._options = options
        self._graph = GraphBuilder(initializers)
        self._linear = LinearLayers(source, options, self._graph)
        self._norms = LayerNorms(source, options, self._graph)
        self._attention = AttentionLayers(
            source.spec, options, self._graph, self._linear, self._norms, kv_scales
        )
        self._dtype = np.float16 if options.is_half else np.float32
        self._lengths: list[str] = []

    def model(self, n_ctx: int, progress: Progress) -> onnx.ModelProto:
        self._attention.add_rotary_caches(n_ctx)
        self._lengths = interface.lengths(self._options, self._graph)
        n_layer = len(self._spec.layers)
        embedded = self._linear.embedding("input_ids", "embedding")
        residual = self._scaled(embedded, self._spec.embedding_scale)
        x = self._norms.norm(residual, self._norm_before(0))
        for layer in range(n_layer):
            progress(layer, n_layer + 1)
            x, residual = self._layer(layer, x, residual)
        progress(n_layer, n_layer + 1)
        self._add_logits(x)
        progress(n_layer + 1, n_layer + 1)
        return self._assembled()

    def norm_model(self, layer: int, stage: int) -> onnx.ModelProto:
        """From `residual`, (1, tokens, n_hidden), to the x of a stage that a norm comes before:
        every other one, and the head, which is that of a layer behind the last one."""
        name = self._norm_before(layer, stage)
        if layer == stage == 0:
            self._norms.norm("residual", name)
        else:  # the whole graph's operator: it computes the same to the last bit
            nothing = self._graph.add("Sub", ["residual", "residual"], ["nothing"])
            self._norms.add_and_norm(nothing, "residual", name)
        return self._part([interface.value("residual")], [self._graph.nodes[-1].output[0]])

    def stage_model(self, layer: int, stage: int, n_ctx: int) -> onnx.ModelProto:
        """From x and residual to those of the next stage: x is what the stage's matrices multiply.
        The residual sum is an output only if the stage changes it; the first stage has its keys and
        values as outputs, too. The other inputs are those of the whole model."""
        given = [interface.value(name) for name in ("x", "residual")]
        kept: list[str] = []
        if stage == 0:
            self._attention.add_rotary_caches(n_ctx)
            self._lengths = interface.lengths(self._options, self._graph)
            given += interface.layer_inputs(self._spec, self._options, layer)
            kept = [f"present.{layer}.{part}" for part in ("key", "value")]
        x, residual = self._stages()[stage](layer, "x", "residual")
        after = [x] if residual == "residual" else [x, residual]
        return self._part(given, [*after, *kept])

    def _norm_before(self, layer: int, stage: int = 0) -> str:
        if layer == len(self._spec.layers):
            return "norm"
        names = self._spec.family.norms
        return f"layers.{layer}.{names.before_mlp if stage else names.before_attention}"

    def _layer(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """The normalized input of the next layer, and the residual sum so far."""
        for stage in self._stages():
            x, residual = stage(layer, x, residual)
        return x, residual

    def _stages(self) -> tuple[Callable[[int, str, str], tuple[str, str]], ...]:
        return self._attend, self._add_attention, self._open, self._add_mlp

    def _attend(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        attended = self._attention.attention(layer, x, self._lengths)
        is_last = layer == len(self._spec.layers) - 1
        if is_last and self._options.interface == "ragged":
            # What follows works on one position at a time, and only some are requested.
            attended = self._asked_rows(attended, self._spec.n_head * self._spec.n_per_head)
            residual = self._asked_rows(residual, self._spec.n_hidden)
        return attended, residual

    def _add_attention(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        prefix, names = f"layers.{layer}", self._spec.family.norms
        out = self._linear.product(x, [f"{prefix}.self_attn.o_proj"], f"{prefix}.attn_out")
        out = self._addend(out, prefix, names.after_attention)
        return self._norms.add_and_norm(out, residual, self._norm_before(layer, 2))

    def _open(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        prefix = f"layers.{layer}"
        gate = self._linear.product(x, [f"{prefix}.mlp.gate_proj"], f"{prefix}.gate")
        up = self._linear.product(x, [f"{prefix}.mlp.up_proj"], f"{prefix}.up")
        opened = self._activated(gate, prefix)
        return self._graph.add("Mul", [opened, up], [f"{prefix}.inner"]), residual

    def _add_mlp(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        prefix, names = f"layers.{layer}", self._spec.family.norms
        out = self._linear.product(x, [f"{prefix}.mlp.down_proj"], f"{prefix}.mlp_out")
        out = self._addend(out, prefix, names.after_mlp)
        return self._norms.add_and_norm(out, residual, self._norm_before(layer + 1))

    def _activated(self, gate: str, prefix: str) -> str:
        output = f"{prefix}.gate_open"
        if self._spec.family.activation == "gelu_tanh":
            return self._graph.add("Gelu", [gate], [output], approximate="tanh")
        share = self._graph.add("Sigmoid", [gate], [f"{prefix}.gate_share"])
        return self._graph.add("Mul", [gate, share], [output])

    def _addend(self, out: str, prefix: str, norm: str | None) -> str:
        """What a part of a layer adds to the residual sum."""
        if norm is not None:
            out = self._norms.norm(out, f"{prefix}.{norm}")
        return self._scaled(out, self._spec.residual_scale)

    def _scaled(self, x: str, factor: float) -> str:
        if factor == 1.0:
            return x
        stored = self._graph.constant(factor, self._dtype)
        return self._graph.add("Mul", [x, stored], [f"{x}.scaled"])

    def _asked_rows(self, x: str, width: int) -> str:
        flat = self._graph.constant([-1, width])
        rows = self._graph.add("Reshape", [x, flat], [f"{x}.flat"])
        return self._graph.add("Gather", [rows, "logits_rows"], [f"{x}.asked"], axis=0)

    def _add_logits(self, x: str) -> None:
        spec = self._spec
        if spec.logit_scale == 1.0 and spec.logit_cap is None and not self._options.is_half:
            self._linear.logits(x, "logits")
            return
        logits = self._scaled(self._linear.logits(x, "logits.plain"), spec.logit_scale)
        if spec.logit_cap is not None:
            share = self._scaled(logits, 1 / spec.logit_cap)
            bounded = self._graph.add("Tanh", [share], ["logits.bounded"])
            logits = self._scaled(bounded, spec.logit_cap)
        self._graph.add("Cast", [logits], ["logits"], to=TensorProto.FLOAT)

    def _assembled(self) -> onnx.ModelProto:
        return self._model(
            interface.inputs(self._spec, self._options),
            interface.outputs(self._spec, self._options),
        )

    def _part(self, inputs: list[ValueInfoProto], outputs: list[str]) -> onnx.ModelProto:
        return self._model(inputs, [interface.value(name) for name in outputs])

    def _model(
        self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._graph.nodes,
            self._spec.architecture,
            inputs,
            outputs,
            initializer=self._graph.initializers.protos,
        )
        return helper.make_model(
            graph,
            producer_name="spillover",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        )
