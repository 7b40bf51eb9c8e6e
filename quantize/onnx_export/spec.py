"""What the exporter must know about a decoder besides its weights."""

from __future__ import annotations

from msgspec import Struct

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types (config.json) whose decoder this package can write; SmolLM's type is llama."""


class LayerKind(Struct, frozen=True, kw_only=True):
    """How one layer attends."""

    window: int | None = None
    """How many of the last positions a position sees, including its own; None: all."""


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Shapes and constants of a decoder with RMS norms, rotary positions and a gated MLP."""

    architecture: str
    n_vocab: int
    n_hidden: int
    n_inner: int
    n_head: int
    n_head_kv: int
    n_per_head: int
    norm_epsilon: float
    n_ctx: int
    frequencies: tuple[float, ...]
    """Rotary angle per position, for each pair of values in a head."""
    magnitude: float
    """Factor of the rotary cosines and sines; not 1 with YaRN."""
    layers: tuple[LayerKind, ...]
    is_tied: bool
    """Whether the embedding is also the output head."""
