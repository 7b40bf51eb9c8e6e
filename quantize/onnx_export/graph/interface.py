"""The inputs and outputs of a decoder's graph."""

from __future__ import annotations

from onnx import TensorProto, ValueInfoProto, helper

from spillover.quantize.onnx_export.graph.builder import GraphBuilder
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.spec import ModelSpec

_Shape = list[str | int | None]


def inputs(spec: ModelSpec, options: ExportOptions) -> list[ValueInfoProto]:
    return [
        *_token_inputs(options),
        *_caches(spec, options, "past_key_values", "past_sequence_length"),
    ]


def layer_inputs(spec: ModelSpec, options: ExportOptions, layer: int) -> list[ValueInfoProto]:
    """What a layer alone reads besides its values."""
    caches = _caches(spec, options, "past_key_values", "past_sequence_length")
    own = f"past_key_values.{layer}."
    return [*_lengths(), *(cache for cache in caches if cache.name.startswith(own))]


def value(name: str) -> ValueInfoProto:
    """A value inside the graph, fp32 of any shape."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def outputs(spec: ModelSpec, options: ExportOptions) -> list[ValueInfoProto]:
    is_ragged = options.interface == "ragged"
    rows: _Shape = ["n_logits"] if is_ragged else ["batch_size", "sequence_length"]
    shape: _Shape = [*rows, spec.n_vocab]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    return [logits, *_caches(spec, options, "present", "total_sequence_length")]


def lengths(options: ExportOptions, graph: GraphBuilder) -> list[str]:
    """Last position of each row and the longest row's length: inputs, or from attention_mask."""
    if options.interface == "ragged":
        return ["seqlens_k", "total_sequence_length"]
    one = graph.constant([1])
    n_seen = graph.add("ReduceSum", ["attention_mask", one], ["mask.n_seen"], keepdims=0)
    last = graph.add("Sub", [n_seen, one], ["mask.last"])
    last = graph.add("Cast", [last], ["mask.seqlens_k"], to=TensorProto.INT32)
    shape = graph.add("Shape", ["attention_mask"], ["mask.shape"])
    width = graph.add("Gather", [shape, graph.constant(1)], ["mask.width"], axis=0)
    total = graph.add("Cast", [width], ["mask.total"], to=TensorProto.INT32)
    return [last, total]


def _token_inputs(options: ExportOptions) -> list[ValueInfoProto]:
    info = helper.make_tensor_value_info
    ids = info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    if options.interface == "genai":
        mask = ["batch_size", "total_sequence_length"]
        return [ids, info("attention_mask", TensorProto.INT64, mask)]
    return [ids, *_lengths()]


def _lengths() -> list[ValueInfoProto]:
    info = helper.make_tensor_value_info
    return [
        info("seqlens_k", TensorProto.INT32, ["batch_size"]),
        info("total_sequence_length", TensorProto.INT32, []),
        info("logits_rows", TensorProto.INT64, ["n_logits"]),
    ]


def _caches(
    spec: ModelSpec, options: ExportOptions, stem: str, length: str
) -> list[ValueInfoProto]:
    kind = TensorProto.FLOAT16 if options.is_half else TensorProto.FLOAT
    if options.kv_cache == "int8":
        kind = TensorProto.INT8
    shape: _Shape = ["batch_size", spec.n_head_kv, length, spec.n_per_head]
    return [
        helper.make_tensor_value_info(f"{stem}.{layer}.{part}", kind, shape)
        for layer in range(len(spec.layers))
        for part in ("key", "value")
    ]
