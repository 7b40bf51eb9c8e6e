"""Turns a checked graph into its layout. The graph is authoritative; settings files are not
consulted."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, ValueInfoProto

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.caches import find_caches
from spillover.runtime.onnx.graph.file import nodes_of
from spillover.runtime.onnx.graph.layout import (
    Attention,
    CacheTensor,
    GraphInputs,
    GraphLayout,
    LogitsForm,
)
from spillover.runtime.onnx.graph.refusals import (
    refuse_bfloat16,
    refuse_inputs,
    refuse_operators,
)
from spillover.runtime.onnx.graph.types import dtype_of, shape_of, true_inputs
from spillover.runtime.onnx.graph.weights import describe_weights

_NAMES: dict[str, tuple[str, ...]] = {
    "ids": ("input_ids", "tokens", "decoder_input_ids", "input"),
    "mask": ("attention_mask",),
    "positions": ("position_ids",),
    "seqlens_k": ("seqlens_k",),
    "total_length": ("total_sequence_length", "total_seq_len"),
    "query_lengths": ("query_seqlens",),
    "logits_rows": ("logits_rows",),
    "n_logits": ("num_logits_to_keep", "logits_to_keep"),
    "write_indices": ("write_indices",),
    "kv_lengths": ("nonpad_kv_seqlen",),
    "branch": ("use_cache_branch",),
}
_RANKS = {"ids": 2, "mask": 2, "positions": 2}
# Operators that show what an input is for, whatever its name.
_PLACES = {
    ("GroupQueryAttention", 5): "seqlens_k",
    ("GroupQueryAttention", 6): "total_length",
    ("GroupQueryAttention", 16): "query_lengths",
    ("TensorScatter", 2): "write_indices",
    ("Attention", 6): "kv_lengths",
}
_DYNAMIC_SCALES = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_ROTARY_TABLES = {
    ("GroupQueryAttention", "com.microsoft"): 7,
    ("RotaryEmbedding", "com.microsoft"): 2,
    ("RotaryEmbedding", ""): 1,
}


def inspect(proto: ModelProto, *, on_cpu: bool = True) -> GraphLayout:
    """The layout of a decoder's graph. Raises ModelError for what cannot run."""
    refuse_operators(proto)
    caches = find_caches(proto)
    inputs = _inputs(proto, caches)
    if not caches:
        raise ModelError(
            "the graph has no KV cache among its inputs and outputs (it was exported without one, "
            "or keeps it inside): export the model with past and present"
        )
    if on_cpu:
        refuse_bfloat16(proto)
    ids = true_inputs(proto)[inputs.ids]
    logits = _logits(proto, caches)
    return GraphLayout(
        attention=_attention(proto, caches),
        inputs=inputs,
        caches=caches,
        logits=logits.name,
        logits_dtype=dtype_of(logits),
        logits_form=_form(logits, inputs),
        ids_dtype=dtype_of(ids),
        n_vocab=shape_of(logits)[-1],
        n_ctx=_n_ctx(proto, caches),
        batch_size=_batch_size(ids, caches),
        weights=describe_weights(proto),
        rounds_together=any(n.op_type in _DYNAMIC_SCALES for n in nodes_of(proto.graph)),
    )


def _inputs(proto: ModelProto, caches: tuple[CacheTensor, ...]) -> GraphInputs:
    """Sort the inputs by purpose."""
    left = true_inputs(proto)
    for cache in caches:
        left.pop(cache.past, None)
    found = _by_place(proto, set(left))
    for purpose, names in _NAMES.items():
        for name in names:
            if name in left and name not in found.values():
                found.setdefault(purpose, name)
    refuse_inputs(sorted(left.keys() - set(found.values())))
    if "ids" not in found:
        raise ModelError("the graph has no input for tokens (input_ids): it is not a text decoder")
    for purpose, rank in _RANKS.items():
        if purpose in found and len(shape_of(left[found[purpose]])) != rank:
            raise ModelError(
                f"the graph's input {found[purpose]!r} has {len(shape_of(left[found[purpose]]))} "
                f"dimensions instead of {rank}: it was not exported for plain text"
            )
    n_tokens = shape_of(left[found["ids"]])[1]
    if n_tokens is not None:
        raise ModelError(
            f"the graph takes exactly {n_tokens} tokens at a time, as builds for NPUs do: get the "
            "model's CPU build"
        )
    return GraphInputs(**found)


def _by_place(proto: ModelProto, names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes_of(proto.graph):
        for place, name in enumerate(node.input):
            purpose = _PLACES.get((node.op_type, place))
            if purpose is not None and name in names:
                found.setdefault(purpose, name)
    return found


def _attention(proto: ModelProto, caches: tuple[CacheTensor, ...]) -> Attention:
    """How the KV cache is kept. Mixed graphs count as growing, which GQA supports too."""
    users: dict[str, str] = {}
    for node in proto.graph.node:
        places = {"GroupQueryAttention": (3, 4), "TensorScatter": (0,)}.get(node.op_type, ())
        users.update({node.input[place]: node.op_type for place in places if _has(node, place)})
    kinds = {users.get(cache.past) for cache in caches}
    if kinds == {"GroupQueryAttention"}:
        return "gqa"
    if kinds == {"TensorScatter"}:
        return "scatter"
    if "TensorScatter" in kinds:
        raise ModelError("TensorScatter writes only a part of the graph's KV cache")
    return "growing"


def _has(node: NodeProto, place: int) -> bool:
    return place < len(node.input) and bool(node.input[place])


def _logits(proto: ModelProto, caches: tuple[CacheTensor, ...]) -> ValueInfoProto:
    presents = {cache.present for cache in caches}
    others: list[ValueInfoProto] = [
        value for value in proto.graph.output if value.name not in presents
    ]
    named = [value for value in others if value.name == "logits"]
    found: ValueInfoProto | None = next(iter(named or others), None)
    if found is None or len(shape_of(found)) not in (2, 3):
        raise ModelError(
            "the graph has no logits output: it is not a text decoder with an output head"
        )
    if dtype_of(found) not in ("float32", "float16", "bfloat16"):
        raise ModelError(f"the graph's logits have the unsupported type {dtype_of(found)}")
    return found


def _form(logits: ValueInfoProto, inputs: GraphInputs) -> LogitsForm:
    if inputs.logits_rows is not None:
        return "asked"
    shape = shape_of(logits)
    return "last" if len(shape) == 2 or shape[1] == 1 else "all"


def _n_ctx(proto: ModelProto, caches: tuple[CacheTensor, ...]) -> int | None:
    """The smallest number of positions in any rotary table or cache of fixed size."""
    rows = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    limits = [cache.capacity for cache in caches if cache.capacity is not None]
    for node in nodes_of(proto.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        place = _ROTARY_TABLES.get((node.op_type, domain))
        if place is not None and _has(node, place) and node.input[place] in rows:
            limits.append(rows[node.input[place]])
    return min(limits, default=None)


def _batch_size(ids: ValueInfoProto, caches: tuple[CacheTensor, ...]) -> int | None:
    sizes = {shape_of(ids)[0], *(cache.shape[cache.batch_axis] for cache in caches)} - {None}
    if len(sizes) > 1:
        raise ModelError(f"the graph's inputs disagree about the number of rows: {sizes}")
    return next(iter(sizes), None)
