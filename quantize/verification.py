"""Whether a new file is sound: it loads, it writes, and it predicts nearly what its source does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from spillover.quantize.errors import QuantizeError
from spillover.quantize.sample_texts import PROSE

if TYPE_CHECKING:
    from spillover.quantize.onnx_parts import OnnxParts
    from spillover.runtime.backend import Backend, Logits

N_CTX = 1_024
"""The context in which a new file is tried."""
_N_WRITTEN = 16
"""Tokens that a new file has to write."""
_MOST_DIVERGENCE = ((15.0, 0.05), (7.0, 0.1), (5.5, 0.5), (4.0, 1.0), (3.0, 2.0), (0.0, 4.0))
"""By bits per weight: nats beyond which a new file is broken rather than coarse: at least twice
what sound files of the smallest models lose, which lose most (docs/quantize.md)."""


class Verdict(Struct, frozen=True, kw_only=True):
    """How far a new file is from its source."""

    divergence: float
    """Mean Kullback-Leibler divergence in nats, on a built-in text."""
    n_positions: int


def most_divergence(bits_per_weight: float) -> float:
    """The nats that a sound file stays below."""
    return next(most for bits, most in _MOST_DIVERGENCE if bits_per_weight >= bits)


def judge(verdict: Verdict | None, most: float, advice: str) -> None:
    """Raises QuantizeError for a file that is farther from its source than *most* nats."""
    if verdict is not None and not verdict.divergence <= most:  # NaN is not
        raise QuantizeError(
            f"the new file's predictions are {verdict.divergence:.3f} nats from its source's, and "
            f"{most:g} are allowed: {advice}"
        )


def write_some(backend: Backend) -> None:
    """Continue a text by the likeliest tokens, and forget it. Raises QuantizeError."""
    import numpy as np  # slow

    from spillover.runtime.backend import Rows

    n_read = min(_N_WRITTEN, max(backend.info.n_kv - _N_WRITTEN, 1))
    tokens = backend.tokenize(PROSE, add_special=True, parse_special=False)[:n_read]
    start = 0
    for _ in range(_N_WRITTEN):
        backend.decode([Rows(0, start, tokens, True)])
        start += len(tokens)
        logits = backend.logits(0)
        check_finite(logits)
        tokens = np.array([logits.argmax()], np.int32)
    backend.keep(0, 0)


def write_by_parts(parts: OnnxParts, n_ctx: int) -> None:
    """The same, of a model that is held part by part. The text repeats itself: most models go on
    like that, and what they write is guessed. Raises QuantizeError."""
    import numpy as np  # slow

    n = min(_N_WRITTEN, max(n_ctx // 4, 1))
    text = parts.tokenizer.tokenize(PROSE, add_special=True, parse_special=False)[: 2 * n]
    logits = parts.greedy(np.concatenate([text, text[:n]]), text[n:])
    check_finite(logits)
    n_tokens = len(parts.tokenizer.pieces)
    written = int(logits.argmax(-1).max())
    if written >= n_tokens:
        raise QuantizeError(
            f"the new file writes the token {written}, and its tokenizer has {n_tokens}: the "
            "tokenizer is of another model, or the source is damaged"
        )


def check_finite(logits: Logits) -> None:
    """Raises QuantizeError for a new file that computes no numbers."""
    import numpy as np  # slow

    if not np.isfinite(logits).all():
        raise QuantizeError(
            "the new file computes no finite numbers: its type is too coarse for this model, "
            "or the source is damaged"
        )
