"""Which type each matrix of a GGUF file should get when its weights may have a given size."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from pathlib import Path

from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.recipe import bits_of
from spillover.quantize.knapsack import Way, choose
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_export.from_gguf.names import gguf_name
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.target import N_CTX, Target, tokens_for
from spillover.quantize.plan.tensor_losses import TensorLoss, tensor_losses

_FILE_TYPES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""The type of a file by that of most of its weights, where the names differ."""
_FINE = ("Q6_K", "Q8_0", "F16")
"""For the head, which needs more bits than most; llama.cpp's own recipes give it the first too."""
_COARSE = ("Q4_K", "Q5_0", "F16")
"""For an embedding that is not the head."""


class GgufMixed(Struct, frozen=True, kw_only=True):
    """A recipe with a type for each matrix."""

    file_type: str
    tensors: tuple[tuple[str, str], ...]
    """Patterns of names, and the type of the tensors that they fit."""
    types: dict[str, int]
    """By type: the number of matrices."""
    size_bytes: int
    """Of all weights, without the vocabulary and other metadata."""
    bits_per_weight: float
    worst: tuple[str, ...]
    """The matrices that suffer most from 4 bits per byte, most first."""
    is_file: bool
    """Whether it is made of a GGUF file, not of a Hugging Face folder."""

    def explained(self, model: Path) -> str:
        """For people, with the command that makes it."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.types.items())
        flags = [f"--tensor {shlex.quote(f'{pattern}={kind}')}" for pattern, kind in self.tensors]
        source = shlex.quote(str(model))
        before = "" if self.is_file else f"spillover export gguf {source} F16.gguf --type F16 && "
        return (
            f"{kinds}: {self.size_bytes / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per weight. "
            f"Those that lose most per byte: {', '.join(self.worst)}.\n"
            f"{before}spillover quantize run {source if self.is_file else 'F16.gguf'} TARGET "
            f"--type {self.file_type} --imatrix auto {' '.join(flags)}"
        )


def gguf_mixed(model: Path, target: Target, text: str, progress: Progress) -> GgufMixed:
    """Measure each matrix, and give the bits to those that need them. *text*: empty for our own.

    Raises ExportError, and QuantizeError for a target that cannot be met.
    """
    stored = open_source(model)
    check(SplitSource(stored))
    if isinstance(stored, GgufSource) and stored.quantized_types():
        raise QuantizeError(
            f"{model} is quantized already, and rounding it once more would add to what it lost: "
            "give the F16, BF16 or F32 file, or the Hugging Face folder"
        )
    fixed = _fixed(stored)
    n_values = {name: math.prod(stored.shape(name)) for name in stored.names()}
    if stored.spec.is_tied:
        n_values.pop(HEAD, None)
    n_all = sum(n_values.values())
    budget = target.budget(n_all)
    tokens = tokens_for(stored, text)
    n_ctx = min(N_CTX, stored.spec.n_ctx)
    losses = tensor_losses(
        stored, tokens, n_ctx, lambda n, n_layers: progress("measuring layers", n, n_layers)
    )
    inside = {one.name for one in losses}
    n_beside = sum(
        _n_bytes(n, fixed.get(name, "F32")) for name, n in n_values.items() if name not in inside
    )
    types = {**fixed, **_chosen(losses, budget - n_beside, budget)}
    size = n_beside + sum(_n_bytes(n_values[one.name], types[one.name]) for one in losses)
    kinds = Counter(types.values())
    weights = Counter[str]()
    for name, kind in types.items():
        weights[kind] += n_values[name]
    most = weights.most_common(1)[0][0]
    worst = sorted(losses, key=_loss_per_byte, reverse=True)
    return GgufMixed(
        file_type=_FILE_TYPES.get(most, "Q8_0" if most == "F16" else most),
        tensors=tuple(_patterns(types, stored)),
        types=dict(kinds.most_common()),
        size_bytes=size,
        bits_per_weight=8 * size / n_all,
        worst=tuple(_stored_name(one.name, stored) for one in worst[:5]),
        is_file=isinstance(stored, GgufSource),
    )


def _fixed(source: WeightSource) -> dict[str, str]:
    """The types of the embedding and the head, which no layer shows the use of."""
    is_tied = source.spec.is_tied
    kinds = {EMBEDDING: _FINE if is_tied else _COARSE} | ({} if is_tied else {HEAD: _FINE})
    return {
        name: next(kind for kind in choice if source.shape(name)[1] % bits_of(kind).n_values == 0)
        for name, choice in kinds.items()
    }


def _chosen(losses: list[TensorLoss], room: int, budget: int) -> dict[str, str]:
    things = [
        [
            Way(n_bytes=_n_bytes(math.prod(one.shape), kind), loss=loss)
            for kind, loss in one.losses.items()
        ]
        for one in losses
    ]
    chosen = choose(things, room)
    if chosen is None:
        smallest = budget - room + sum(min(way.n_bytes for way in ways) for ways in things)
        raise QuantizeError(
            f"{budget / 1e6:.1f} MB are too few: with the fewest bits that its rows allow the "
            f"weights take {smallest / 1e6:.1f} MB. Raise the target, or choose a smaller model"
        )
    return {one.name: list(one.losses)[place] for one, place in zip(losses, chosen, strict=True)}


def _n_bytes(n_values: int, kind: str) -> int:
    return n_values // bits_of(kind).n_values * bits_of(kind).n_bytes


def _loss_per_byte(one: TensorLoss) -> float:
    return max(one.losses.get(kind, 0.0) for kind in ("Q4_K", "IQ4_NL")) / math.prod(one.shape)


def _patterns(types: dict[str, str], source: WeightSource) -> list[tuple[str, str]]:
    """Expressions that together fit every matrix, each with its type; the first that fits counts.
    Layers whose matrix of one kind has one type share one."""
    found = []
    layers: dict[str, dict[str, list[str]]] = {}
    for name, kind in types.items():
        stored = _stored_name(name, source)
        if not stored.startswith("blk."):
            found.append((f"^{re.escape(stored)}$", kind))
            continue
        _, layer, rest = stored.split(".", 2)
        layers.setdefault(rest, {}).setdefault(kind, []).append(layer)
    for rest, by_type in sorted(layers.items()):
        *some, most = sorted(by_type.items(), key=lambda pair: len(pair[1]))
        named = [(_any_of(own), kind) for kind, own in some]
        for place, kind in [*named, ("[0-9]+", most[0])]:
            found.append((rf"^blk\.{place}\.{re.escape(rest)}$", kind))
    return found


def _any_of(layers: list[str]) -> str:
    return layers[0] if len(layers) == 1 else f"({'|'.join(layers)})"


def _stored_name(name: str, source: WeightSource) -> str:
    stored = gguf_name(name, source.spec.architecture)
    assert stored is not None, f"{name} was checked"
    return stored
