"""Adds attention to a graph: GroupQueryAttention with its rotary positions and KV cache inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.graph.layer_norms import LayerNorms
from spillover.quantize.onnx_export.graph.linear import LinearLayers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.rope import caches
from spillover.quantize.onnx_export.spec import ModelSpec

_INT8 = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}


class KvScales(Struct, frozen=True, kw_only=True):
    """The scales of a layer's KV cache in int8, (shared heads, size of a head) each."""

    keys: Floats
    values: Floats


class AttentionLayers:
    """The attention of each layer, without its norms and its output matrix."""

    def __init__(
        self,
        spec: ModelSpec,
        options: ExportOptions,
        graph: GraphBuilder,
        linear: LinearLayers,
        norms: LayerNorms,
        kv_scales: Sequence[KvScales],
    ) -> None:
        self._spec = spec
        self._graph = graph
        self._linear = linear
        self._norms = norms
        self._kv_scales = kv_scales
        self._dtype = np.float16 if options.is_half else np.float32

    def add_rotary_caches(self, n_ctx: int) -> None:
        for index, rotary in enumerate(self._spec.rotaries):
            cosines, sines = caches(rotary.at(n_ctx), rotary.magnitude, n_ctx)
            for name, values in zip(_tables(index), (cosines, sines), strict=True):
                self._graph.initializers.add(name, values.astype(self._dtype))

    def attention(self, layer: int, x: str, lengths: Sequence[str]) -> str:
        """What the heads of a layer give, side by side. *lengths*: of each row and of the longest
        one."""
        spec, prefix = self._spec, f"layers.{layer}"
        kind = spec.layers[layer]
        tables = () if kind.rotary is None else _tables(kind.rotary)
        optional = {"scale": spec.attention_scale, "softcap": spec.attention_cap}
        return self._graph.add(
            "GroupQueryAttention",
            [
                *self._projections(layer, x),
                *(f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"),
                *lengths,
                *tables,
                *self._scale_inputs(layer, 5 - len(tables)),
            ],
            [f"{prefix}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            domain=MICROSOFT,
            num_heads=spec.n_head,
            kv_num_heads=spec.n_head_kv,
            do_rotary=int(bool(tables)),
            rotary_interleaved=0,
            local_window_size=kind.window or -1,
            **{name: value for name, value in optional.items() if value is not None},
            **(_INT8 if self._kv_scales else {}),
        )

    def _scale_inputs(self, layer: int, n_between: int) -> list[str]:
        """The scales of the KV cache, after inputs that are not used."""
        if not self._kv_scales:
            return []
        scales = self._kv_scales[layer]
        add = self._graph.initializers.add
        return [
            *[""] * n_between,
            add(f"layers.{layer}.key_scales", scales.keys[:, None]),
            add(f"layers.{layer}.value_scales", scales.values[:, None]),
        ]

    def _projections(self, layer: int, x: str) -> tuple[str, str, str]:
        """Queries, keys and values; all three in the first, where the operator can split them."""
        spec = self._spec
        names = [f"layers.{layer}.self_attn.{name}_proj" for name in "qkv"]
        if not spec.family.has_head_norms:
            return self._linear.product(x, names, f"layers.{layer}.qkv"), "", ""
        query, key, value = (
            self._linear.product(x, [name], name.replace("_proj", "")) for name in names
        )
        query = self._norms.head_norm(query, f"layers.{layer}.self_attn.q_norm", spec.n_head)
        key = self._norms.head_norm(key, f"layers.{layer}.self_attn.k_norm", spec.n_head_kv)
        return query, key, value


def _tables(rotary: int) -> tuple[str, str]:
    """The names of a rotary's cosines and sines."""
    number = f".{rotary}" if rotary else ""
    return f"rotary{number}.cos", f"rotary{number}.sin"
