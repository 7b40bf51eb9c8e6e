"""A source whose fused matrices are seen as the matrices that Llama has."""

from __future__ import annotations

from msgspec import Struct

from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec


class _Part(Struct, frozen=True, kw_only=True):
    """Rows of a stored tensor."""

    stored: str
    start: int
    n_rows: int


class SplitSource:
    """The query, key and value matrices that some files store as one, and the gate and up matrices
    of an MLP, by their own names. All else is *source*'s."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._parts: dict[str, _Part] = {}
        self._fused: set[str] = set()
        for name in source.names():
            self._split(name)

    @property
    def spec(self) -> ModelSpec:
        return self._source.spec

    def names(self) -> frozenset[str]:
        return (self._source.names() - self._fused) | self._parts.keys()

    def stored_name(self, name: str) -> str:
        """The tensor of *source* that has this one's rows."""
        return self._parts[name].stored if name in self._parts else name

    def shape(self, name: str) -> tuple[int, ...]:
        part = self._parts.get(name)
        if part is None:
            return self._source.shape(name)
        return part.n_rows, *self._source.shape(part.stored)[1:]

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        part = self._parts.get(name)
        if part is None:
            return self._source.values(name, start, stop)
        last = part.n_rows if stop is None else min(stop, part.n_rows)
        return self._source.values(part.stored, part.start + start, part.start + last)

    def exact_bits(self, name: str) -> int | None:
        part = self._parts.get(name)
        return self._source.exact_bits(name if part is None else part.stored)

    def blocks(self, name: str, bits: int) -> Blocks | None:
        part = self._parts.get(name)
        if part is None:
            return self._source.blocks(name, bits)
        whole = self._source.blocks(part.stored, bits)
        rows = slice(part.start, part.start + part.n_rows)
        return None if whole is None else whole.of_rows(rows)

    def _split(self, name: str) -> None:
        """Give the parts of a fused tensor names, if its shape is that of all parts together."""
        stem, _, end = name.rpartition(".")
        layer = ".".join(stem.split(".")[:2])
        sizes = _sizes(self.spec).get(stem.removeprefix(f"{layer}."), {})
        if not sizes or self._source.shape(name)[:1] != (sum(sizes.values()),):
            return
        self._fused.add(name)
        start = 0
        for part, n_rows in sizes.items():
            self._parts[f"{layer}.{part}.{end}"] = _Part(stored=name, start=start, n_rows=n_rows)
            start += n_rows


def _sizes(spec: ModelSpec) -> dict[str, dict[str, int]]:
    """By fused matrix: its parts and their rows, in order."""
    n_query, n_shared = spec.n_head * spec.n_per_head, spec.n_head_kv * spec.n_per_head
    return {
        "self_attn.qkv_proj": {
            "self_attn.q_proj": n_query,
            "self_attn.k_proj": n_shared,
            "self_attn.v_proj": n_shared,
        },
        "mlp.gate_up_proj": {"mlp.gate_proj": spec.n_inner, "mlp.up_proj": spec.n_inner},
    }
