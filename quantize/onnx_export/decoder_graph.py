"""A decoder as an ONNX graph: GroupQueryAttention with its rotary positions and KV cache inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper

from spillover.quantize.onnx_export.graph_builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.initializers import Initializers
from spillover.quantize.onnx_export.linear import LinearLayers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.rope import caches
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
) -> onnx.ModelProto:
    """Build the model; its weights go to *initializers* as they are read."""
    return _Decoder(source, options, initializers).model(n_ctx, progress)


class _Decoder:
    def __init__(
        self, source: WeightSource, options: ExportOptions, initializers: Initializers
    ) -> None:
        self._source = source
        self._spec = source.spec
        self._options = options
        self._graph = GraphBuilder(initializers)
        self._linear = LinearLayers(source, options, self._graph)
        self._dtype = np.float16 if options.is_half else np.float32
        self._type = TensorProto.FLOAT16 if options.is_half else TensorProto.FLOAT
        self._lengths = ["seqlens_k", "total_sequence_length"]

    def model(self, n_ctx: int, progress: Progress) -> onnx.ModelProto:
        self._add_rotary_caches(n_ctx)
        if self._options.interface == "genai":
            self._lengths = self._lengths_from_mask()
        n_layer = len(self._spec.layers)
        residual = self._linear.embedding("input_ids", "embedding")
        x = self._norm(residual, "layers.0.input_layernorm")
        for layer in range(n_layer):
            progress(layer, n_layer + 1)
            x, residual = self._layer(layer, x, residual)
        progress(n_layer, n_layer + 1)
        self._add_logits(x)
        progress(n_layer + 1, n_layer + 1)
        return self._assembled()

    def _layer(self, layer: int, x: str, residual: str) -> tuple[str, str]:
        """The normalized input of the next layer, and the residual sum so far."""
        prefix, is_last = f"layers.{layer}", layer == len(self._spec.layers) - 1
        attended = self._attention(layer, x)
        if is_last and self._options.interface == "ragged":
            # What follows works on one position at a time, and only some are requested.
            attended = self._asked_rows(attended, self._spec.n_head * self._spec.n_per_head)
            residual = self._asked_rows(residual, self._spec.n_hidden)
        out = self._linear.product(attended, [f"{prefix}.self_attn.o_proj"], f"{prefix}.attn_out")
        x, residual = self._add_and_norm(out, residual, f"{prefix}.post_attention_layernorm")
        gate = self._linear.product(x, [f"{prefix}.mlp.gate_proj"], f"{prefix}.gate")
        up = self._linear.product(x, [f"{prefix}.mlp.up_proj"], f"{prefix}.up")
        share = self._graph.add("Sigmoid", [gate], [f"{prefix}.gate_share"])
        opened = self._graph.add("Mul", [gate, share], [f"{prefix}.gate_open"])
        inner = self._graph.add("Mul", [opened, up], [f"{prefix}.inner"])
        out = self._linear.product(inner, [f"{prefix}.mlp.down_proj"], f"{prefix}.mlp_out")
        following = "norm" if is_last else f"layers.{layer + 1}.input_layernorm"
        return self._add_and_norm(out, residual, following)

    def _attention(self, layer: int, x: str) -> str:
        spec, prefix = self._spec, f"layers.{layer}"
        projections = [f"{prefix}.self_attn.{name}_proj" for name in "qkv"]
        if spec.architecture == "qwen3":
            query, key, value = (
                self._linear.product(x, [name], name.replace("_proj", "")) for name in projections
            )
            query = self._head_norm(query, f"{prefix}.self_attn.q_norm", spec.n_head)
            key = self._head_norm(key, f"{prefix}.self_attn.k_norm", spec.n_head_kv)
        else:
            query, key, value = self._linear.product(x, projections, f"{prefix}.qkv"), "", ""
        return self._graph.add(
            "GroupQueryAttention",
            [
                *(query, key, value),
                *(f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"),
                *self._lengths,
                *("rotary.cos", "rotary.sin"),
            ],
            [f"{prefix}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            domain=MICROSOFT,
            num_heads=spec.n_head,
            kv_num_heads=spec.n_head_kv,
            do_rotary=1,
            rotary_interleaved=0,
            local_window_size=spec.layers[layer].window or -1,
        )

    def _norm(self, x: str, name: str) -> str:
        return self._graph.add(
            "SimplifiedLayerNormalization",
            [x, self._norm_weight(name)],
            [name],
            axis=-1,
            epsilon=self._spec.norm_epsilon,
            stash_type=1,
        )

    def _add_and_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        total = f"{name}.residual"
        self._graph.add(
            "SkipSimplifiedLayerNormalization",
            [x, residual, self._norm_weight(name)],
            [name, "", "", total],
            domain=MICROSOFT,
            epsilon=self._spec.norm_epsilon,
        )
        return name, total

    def _head_norm(self, x: str, name: str, n_head: int) -> str:
        """Normalize each head separately."""
        heads = self._graph.constant([0, 0, n_head, self._spec.n_per_head])
        split = self._graph.add("Reshape", [x, heads], [f"{name}.heads"])
        normalized = self._norm(split, name)
        flat = self._graph.constant([0, 0, n_head * self._spec.n_per_head])
        return self._graph.add("Reshape", [normalized, flat], [f"{name}.flat"])

    def _norm_weight(self, name: str) -> str:
        values = self._source.values(f"{name}.weight").astype(self._dtype)
        return self._graph.initializers.add(f"{name}.weight", values)

    def _asked_rows(self, x: str, width: int) -> str:
        flat = self._graph.constant([-1, width])
        rows = self._graph.add("Reshape", [x, flat], [f"{x}.flat"])
        return self._graph.add("Gather", [rows, "logits_rows"], [f"{x}.asked"], axis=0)

    def _add_logits(self, x: str) -> None:
        if not self._options.is_half:
            self._linear.logits(x, "logits")
            return
        logits = self._linear.logits(x, "logits.half")
        self._graph.add("Cast", [logits], ["logits"], to=TensorProto.FLOAT)

    def _add_rotary_caches(self, n_ctx: int) -> None:
        cosines, sines = caches(self._spec.frequencies, self._spec.magnitude, n_ctx)
        self._graph.initializers.add("rotary.cos", cosines.astype(self._dtype))
        self._graph.initializers.add("rotary.sin", sines.astype(self._dtype))

    def _lengths_from_mask(self) -> list[str]:
        """Last position of each row and the longest row's length, from attention_mask."""
        graph, one = self._graph, self._graph.constant([1])
        n_seen = graph.add("ReduceSum", ["attention_mask", one], ["mask.n_seen"], keepdims=0)
        last = graph.add("Sub", [n_seen, one], ["mask.last"])
        last = graph.add("Cast", [last], ["mask.seqlens_k"], to=TensorProto.INT32)
        shape = graph.add("Shape", ["attention_mask"], ["mask.shape"])
        width = graph.add("Gather", [shape, graph.constant(1)], ["mask.width"], axis=0)
        total = graph.add("Cast", [width], ["mask.total"], to=TensorProto.INT32)
        return [last, total]

    def _assembled(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._graph.nodes,
            self._spec.architecture,
            [*self._inputs(), *self._caches("past_key_values", "past_sequence_length")],
            [self._logits_info(), *self._caches("present", "total_sequence_length")],
            initializer=self._graph.initializers.protos,
        )
        return helper.make_model(
            graph,
            producer_name="spillover",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        )

    def _inputs(self) -> list[ValueInfoProto]:
        info = helper.make_tensor_value_info
        ids = info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
        if self._options.interface == "genai":
            mask = ["batch_size", "total_sequence_length"]
            return [ids, info("attention_mask", TensorProto.INT64, mask)]
        return [
            ids,
            info("seqlens_k", TensorProto.INT32, ["batch_size"]),
            info("total_sequence_length", TensorProto.INT32, []),
            info("logits_rows", TensorProto.INT64, ["n_logits"]),
        ]

    def _logits_info(self) -> ValueInfoProto:
        is_ragged = self._options.interface == "ragged"
        rows: list[str | int] = ["n_logits"] if is_ragged else ["batch_size", "sequence_length"]
        shape: list[str | int | None] = [*rows, self._spec.n_vocab]
        return helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)

    def _caches(self, stem: str, length: str) -> list[ValueInfoProto]:
        shape: list[str | int | None] = [
            "batch_size",
            self._spec.n_head_kv,
            length,
            self._spec.n_per_head,
        ]
        return [
            helper.make_tensor_value_info(f"{stem}.{layer}.{part}", self._type, shape)
            for layer in range(len(self._spec.layers))
            for part in ("key", "value")
        ]
