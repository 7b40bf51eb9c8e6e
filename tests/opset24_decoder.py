"""Writes a Llama with opset 24's operators: TensorScatter keeps the KV cache in place."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.graph.builder import GraphBuilder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from tests.plain_decoder import Decoder, cache_infos, output_infos


class _Decoder(Decoder):
    def _attention(
        self, x: str, name: str, layer: int, bias: str, rotation: list[str], present: str
    ) -> str:
        spec = self._spec
        query = self._rotated(self._heads(x, f"{name}.self_attn.q_proj", spec.n_head), rotation)
        key = self._rotated(self._heads(x, f"{name}.self_attn.k_proj", spec.n_head_kv), rotation)
        value = self._heads(x, f"{name}.self_attn.v_proj", spec.n_head_kv)
        caches = [
            self.graph.add(
                "TensorScatter",
                [f"past_key_values.{layer}.{part}", new, "write_indices"],
                [f"{present}.{layer}.{part}"],
                axis=2,
            )
            for part, new in (("key", key), ("value", value))
        ]
        lengths = ["", "", "", "nonpad_kv_seqlen"]
        mixed = self._add("Attention", query, *caches, *lengths, is_causal=1)
        turned = self._add("Transpose", mixed, perm=[0, 2, 1, 3])
        flat = self._add("Reshape", turned, self._int(0, 0, spec.n_head * spec.n_per_head))
        return self._product(flat, f"{name}.self_attn.o_proj")

    def _mean(self, x: str) -> str:
        return self._add("ReduceMean", x, self._int(-1))

    def _attention_bias(self) -> str:
        return ""


def write(source: Path, target: Path) -> Path:
    """The graph of a Hugging Face folder as *target*/model.onnx."""
    target.mkdir(parents=True)
    hf = HfSource(source)
    builder = GraphBuilder(Initializers(None))
    _Decoder(hf, builder, "", has_past=True).build("logits", "present")
    info, long = helper.make_tensor_value_info, TensorProto.INT64
    inputs = [
        info("input_ids", long, ["batch_size", "sequence_length"]),
        info("position_ids", long, ["batch_size", "sequence_length"]),
        info("write_indices", long, ["batch_size"]),
        info("nonpad_kv_seqlen", long, ["batch_size"]),
        *cache_infos(hf, "past_key_values", "capacity"),
    ]
    graph = helper.make_graph(
        builder.nodes,
        "decoder",
        inputs,
        output_infos(hf, "logits", "present"),
        initializer=builder.initializers.protos,
    )
    # The outputs have the shape of the inputs here.
    for value in graph.output[1:]:
        value.type.tensor_type.shape.dim[2].dim_param = "capacity"
    model = helper.make_model(graph, ir_version=11, opset_imports=[helper.make_opsetid("", 24)])
    onnx.save(model, target / "model.onnx")
    return target
