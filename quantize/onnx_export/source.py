"""The source of weights. Names are those of Hugging Face's Llama, without a leading "model."."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.spec import ModelSpec

EMBEDDING, FINAL_NORM, HEAD = "embed_tokens.weight", "norm.weight", "lm_head.weight"


class WeightSource(Protocol):
    """A model's facts and its tensors, which are read on demand."""

    @property
    def spec(self) -> ModelSpec: ...

    def names(self) -> frozenset[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """The tensor, or its rows from *start* up to but not including *stop*."""
        ...

    def exact_bits(self, name: str) -> int | None:
        """The fewest bits of blocks that hold the tensor exactly as it is stored, if any do."""
        ...

    def blocks(self, name: str, bits: int) -> Blocks | None:
        """The tensor as stored, if blocks of so many bits hold it exactly."""
        ...


def matrices(spec: ModelSpec, layer: int) -> dict[str, tuple[int, int]]:
    """The names of a layer's matrices and their shapes, (outputs, inputs)."""
    n_query, n_shared = spec.n_head * spec.n_per_head, spec.n_head_kv * spec.n_per_head
    shapes = {
        "self_attn.q_proj": (n_query, spec.n_hidden),
        "self_attn.k_proj": (n_shared, spec.n_hidden),
        "self_attn.v_proj": (n_shared, spec.n_hidden),
        "self_attn.o_proj": (spec.n_hidden, n_query),
        "mlp.gate_proj": (spec.n_inner, spec.n_hidden),
        "mlp.up_proj": (spec.n_inner, spec.n_hidden),
        "mlp.down_proj": (spec.n_hidden, spec.n_inner),
    }
    return {f"layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}


def check(source: WeightSource) -> None:
    """Check that every tensor exists in its shape, and that none would be left out.

    Raises ExportError.
    """
    spec = source.spec
    for rotary in spec.rotaries:
        if spec.n_per_head % 8 or len(rotary.frequencies) % 8:
            raise ExportError(
                f"the model turns {2 * len(rotary.frequencies)} of the {spec.n_per_head} values of "
                "a head: GroupQueryAttention turns 16, 32, 48 … only"
            )
    wanted: dict[str, tuple[int, ...]] = dict(_wanted(spec))
    optional = dict(_optional(spec))
    missing = sorted(wanted.keys() - source.names())
    if missing:
        raise ExportError(f"the model lacks {_some(missing)}: some of its files may be missing")
    if spec.is_tied:
        optional[HEAD] = (spec.n_vocab, spec.n_hidden)
    unknown = sorted(source.names() - wanted.keys() - optional.keys())
    if unknown:
        raise ExportError(
            f"the model has tensors that a plain {spec.architecture} lacks ({_some(unknown)}): "
            "it is not supported"
        )
    for name, shape in {**wanted, **optional}.items():
        if name in source.names() and source.shape(name) != shape:
            raise ExportError(f"{name} has the shape {source.shape(name)} instead of {shape}")


def _wanted(spec: ModelSpec) -> Generator[tuple[str, tuple[int, ...]]]:
    yield EMBEDDING, (spec.n_vocab, spec.n_hidden)
    yield FINAL_NORM, (spec.n_hidden,)
    if not spec.is_tied:
        yield HEAD, (spec.n_vocab, spec.n_hidden)
    for layer in range(len(spec.layers)):
        yield from matrices(spec, layer).items()
        for norm in spec.family.norms.names():
            yield f"layers.{layer}.{norm}.weight", (spec.n_hidden,)
        if spec.family.has_head_norms:
            yield f"layers.{layer}.self_attn.q_norm.weight", (spec.n_per_head,)
            yield f"layers.{layer}.self_attn.k_norm.weight", (spec.n_per_head,)


def _optional(spec: ModelSpec) -> Generator[tuple[str, tuple[int, ...]]]:
    for layer in range(len(spec.layers)):
        for name, (n_outputs, _) in matrices(spec, layer).items():
            yield name.removesuffix("weight") + "bias", (n_outputs,)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:80] for name in names[:3]) + more
