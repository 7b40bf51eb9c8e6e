"""What the exporter must know about a decoder besides its weights."""

from __future__ import annotations

from msgspec import Struct

from spillover.quantize.onnx_export.families import FAMILIES, Family


class Rotary(Struct, frozen=True, kw_only=True):
    """How positions turn the first values of each head."""

    frequencies: tuple[float, ...]
    """Angle per position, for each pair of values that is turned."""
    magnitude: float = 1.0
    """Factor of the cosines and sines; not 1 with YaRN and LongRoPE."""
    long_frequencies: tuple[float, ...] | None = None
    """Used instead in contexts longer than *n_short* (LongRoPE)."""
    n_short: int = 0

    def at(self, n_ctx: int) -> tuple[float, ...]:
        """The frequencies in a context of *n_ctx* tokens."""
        if self.long_frequencies is None or n_ctx <= self.n_short:
            return self.frequencies
        return self.long_frequencies


class LayerKind(Struct, frozen=True, kw_only=True):
    """How one layer attends."""

    window: int | None = None
    """How many of the last positions a position sees, including its own; None: all."""
    rotary: int | None = 0
    """Which of the model's rotaries turns its heads; None: none."""


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
    rotaries: tuple[Rotary, ...]
    layers: tuple[LayerKind, ...]
    is_tied: bool
    """Whether the embedding is also the output head."""
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    """Factor of the scores; None: 1 / sqrt(n_per_head)."""
    attention_cap: float | None = None
    """Scaled scores become cap * tanh(scores / cap) before they are masked."""
    residual_scale: float = 1.0
    """Factor of what each attention and MLP adds."""
    logit_scale: float = 1.0
    logit_cap: float | None = None
    """Logits become cap * tanh(logits / cap)."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]
