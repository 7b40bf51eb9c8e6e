"""Tells from a graph's inputs and outputs whether it makes vectors or scores, and how."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct
from onnx import ModelProto, ValueInfoProto

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.graph.refusals import refuse_bfloat16, refuse_operators
from spillover.runtime.onnx.graph.types import shape_of, true_inputs

Output: TypeAlias = Literal["tokens", "vectors", "scores"]
"""tokens: a vector of each token, (rows, positions, n_values); vectors: one of each input,
(rows, n_values); scores: (rows, n_labels), or (rows,)."""

_VECTORS = ("sentence_embedding", "sentence_embeddings", "text_embeds", "embedding", "embeddings")
_TOKENS = ("last_hidden_state", "token_embeddings", "hidden_states")
_PAST = "past"


class EmbeddingGraph(Struct, frozen=True, kw_only=True):
    """The names of the inputs, and the output to read; None for inputs that the graph lacks."""

    output: str
    kind: Output
    n_values: int | None
    """None where the graph does not say."""
    ids: str
    mask: str | None
    segments: str | None
    positions: str | None
    pasts: dict[str, tuple[int, ...]]
    """Inputs of a KV cache, which is empty here, with the shapes of one row."""


def find_output(proto: ModelProto) -> tuple[ValueInfoProto, Output] | None:
    """The output with vectors or scores; None for a graph that writes answers."""
    outputs = {value.name: value for value in proto.graph.output}
    logits = outputs.get("logits")
    if logits is not None:
        decodes = len(shape_of(logits)) > 2 or any(_PAST in name for name in true_inputs(proto))
        return None if decodes else (logits, "scores")
    for name in _VECTORS:
        if name in outputs and len(shape_of(outputs[name])) == 2:
            return outputs[name], "vectors"
    for name in _TOKENS:
        if name in outputs and len(shape_of(outputs[name])) == 3:
            return outputs[name], "tokens"
    return None


def inspect_embedding(proto: ModelProto) -> EmbeddingGraph:
    """The layout of a graph that makes vectors or scores. Raises ModelError."""
    refuse_operators(proto)
    refuse_bfloat16(proto)
    found = find_output(proto)
    assert found is not None, "find_output() tells which graphs come here"
    output, kind = found
    left = true_inputs(proto)
    pasts = {name: _empty(left.pop(name)) for name in list(left) if _PAST in name}
    names = {
        purpose: name if left.pop(name, None) is not None else None
        for purpose, name in (
            ("mask", "attention_mask"),
            ("segments", "token_type_ids"),
            ("positions", "position_ids"),
        )
    }
    if "input_ids" not in left:
        raise ModelError("the graph has no input for tokens (input_ids): it reads no text")
    ids = left.pop("input_ids")
    if left:
        raise ModelError(
            f"the graph's input {min(left)[:80]!r} is unknown: export the model as a text encoder "
            "(input_ids, attention_mask, token_type_ids)"
        )
    if any(size is not None for size in shape_of(ids)):
        raise ModelError(
            f"the graph takes inputs of the fixed shape {shape_of(ids)}: export it with free ones"
        )
    shape = shape_of(output)
    return EmbeddingGraph(
        output=output.name,
        kind=kind,
        n_values=shape[-1] if len(shape) > 1 else 1,
        ids=ids.name,
        pasts=pasts,
        **names,
    )


def _empty(past: ValueInfoProto) -> tuple[int, ...]:
    """The shape of one row of an empty cache: sizes that the graph leaves open are 0."""
    return tuple(size or 0 for size in shape_of(past)[1:])
