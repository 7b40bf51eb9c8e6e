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
from spillover.quantize.gguf_export.export import check_folder
from spillover.quantize.knapsack import Way, choose
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_export.from_gguf.names import gguf_name
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.source import EMBEDDING, HEAD, WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.commands import gguf_export, new_name, quantization, typed
from spillover.quantize.plan.target import N_CTX, Target, tokens_for
from spillover.quantize.plan.tensor_losses import TensorLoss, tensor_losses, types_for

_FILE_TYPES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "F16": "Q8_0"}
"""The type of a file by that of most of its weights, where the names differ. (Single tensors can
have other types in quantized files only.)"""
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

    def summary(self) -> str:
        """For people."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.types.items())
        return (
            f"{kinds}: {self.size_bytes / 1e6:.1f} MB, {self.bits_per_weight:.2f} bits per weight. "
            f"Those that lose most per byte: {', '.join(self.worst)}."
        )

    def commands(self, model: Path, text: Path | None) -> list[str]:
        """What makes it. *text*: None for our own."""
        source = model if self.is_file else new_name(model, "F16", ".gguf")
        commands = [] if self.is_file else [gguf_export(model, source)]
        imatrix = "auto"
        if text is not None:
            imatrix = typed(new_name(model, "imatrix", ".gguf"))
            read = f"spillover quantize imatrix {typed(source)} {imatrix} --text {typed(text)}"
            commands.append(read)
        flags = [f"--imatrix {imatrix}"]
        flags += [f"--tensor {shlex.quote(f'{pattern}={kind}')}" for pattern, kind in self.tensors]
        target = new_name(model, f"{self.bits_per_weight:.2f}bpw", ".gguf")
        return [*commands, quantization(source, target, self.file_type, flags)]


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
    if not isinstance(stored, GgufSource):
        check_folder(model, "F16")
    sizes = _Sizes(stored)
    budget = target.budget_within(sizes.n_values, sizes.smallest, sizes.largest, "--type Q8_0")
    losses = tensor_losses(
        stored,
        tokens_for(stored, text),
        min(N_CTX, stored.spec.n_ctx),
        lambda n, n_layers: progress("measuring layers", n, n_layers),
    )
    types = {**sizes.fixed, **_chosen(losses, budget - sizes.n_beside)}
    size = sizes.n_beside + sum(_n_bytes(math.prod(one.shape), types[one.name]) for one in losses)
    worst = sorted(losses, key=_loss_per_byte, reverse=True)
    return GgufMixed(
        file_type=_file_type(types, stored),
        tensors=tuple(_patterns(types, stored)),
        types=dict(Counter(types.values()).most_common()),
        size_bytes=size,
        bits_per_weight=8 * size / sizes.n_values,
        worst=tuple(_stored_name(one.name, stored) for one in worst[:5]),
        is_file=isinstance(stored, GgufSource),
    )


class _Sizes:
    """What is known of a model's file before anything is measured."""

    def __init__(self, source: WeightSource) -> None:
        shapes = {name: source.shape(name) for name in source.names()}
        if source.spec.is_tied:
            shapes.pop(HEAD, None)
        n_values = {name: math.prod(shape) for name, shape in shapes.items()}
        inside = [name for name in shapes if name.startswith("layers.") and len(shapes[name]) == 2]
        self.n_values = sum(n_values.values())
        self.fixed = _fixed(source)
        self.n_beside = sum(
            _n_bytes(n, self.fixed.get(name, "F32"))
            for name, n in n_values.items()
            if name not in inside
        )
        """Bytes of all but the matrices in the layers."""
        self.smallest, self.largest = (
            self.n_beside
            + sum(_n_bytes(n_values[name], types_for(shapes[name][1])[place]) for name in inside)
            for place in (0, -1)
        )


def _fixed(source: WeightSource) -> dict[str, str]:
    """The types of the embedding and the head, which no layer shows the use of."""
    is_tied = source.spec.is_tied
    kinds = {EMBEDDING: _FINE if is_tied else _COARSE} | ({} if is_tied else {HEAD: _FINE})
    return {
        name: next(kind for kind in choice if source.shape(name)[1] % bits_of(kind).n_values == 0)
        for name, choice in kinds.items()
    }


def _chosen(losses: list[TensorLoss], room: int) -> dict[str, str]:
    things = [
        [
            Way(n_bytes=_n_bytes(math.prod(one.shape), kind), loss=loss)
            for kind, loss in one.losses.items()
        ]
        for one in losses
    ]
    chosen = choose(things, room)
    assert chosen is not None, "it was checked"
    return {one.name: list(one.losses)[place] for one, place in zip(losses, chosen, strict=True)}


def _file_type(types: dict[str, str], source: WeightSource) -> str:
    """What to call a file of these types: after that of most of its weights."""
    weights = Counter[str]()
    for name, kind in types.items():
        weights[kind] += math.prod(source.shape(name))
    (most, _), *_ = weights.most_common(1)
    return _FILE_TYPES.get(most, most)


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
