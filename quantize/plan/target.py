"""How large the weights of a mixed recipe may be, and the tokens that show which ones matter."""

from __future__ import annotations

import tempfile
from pathlib import Path

from msgspec import Struct

from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export import companion_files
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, tokens_of
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.texts import calibration_text

N_CTX = 512
_FEWEST_TOKENS = 128
"""As for an importance matrix, for which the text may be read again."""


class Target(Struct, frozen=True, kw_only=True):
    """How large the weights may be; one of both."""

    bits_per_weight: float | None = None
    size_bytes: int | None = None

    def budget(self, n_values: int) -> int:
        """In bytes, for so many weights."""
        if self.bits_per_weight is not None:
            return int(n_values * self.bits_per_weight / 8)
        assert self.size_bytes is not None, "one of both was given"
        return self.size_bytes

    def budget_within(
        self, n_values: int, smallest: int, largest: int, without_measuring: str
    ) -> int:
        """The budget for weights that can take from *smallest* to *largest* bytes; with the latter
        there is nothing to choose, and *without_measuring* makes the model.

        Raises QuantizeError for a target outside.
        """
        budget = self.budget(n_values)
        sizes = (
            f"The weights can take from {_described(smallest, n_values)} to "
            f"{_described(largest, n_values)}"
        )
        if budget < smallest:
            raise QuantizeError(
                f"{_described(budget, n_values)} are too few. {sizes}: raise the target, or choose "
                "a smaller model"
            )
        if budget >= largest:
            raise QuantizeError(
                f"{_described(budget, n_values)} leave nothing to choose. {sizes}: lower the "
                f"target, or make the largest by {without_measuring}"
            )
        return budget


def _described(n_bytes: int, n_values: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB ({8 * n_bytes / n_values:.2f} bits per weight)"


def tokens_for(stored: HfSource | GgufSource, text: str, tokenizer: Path | None = None) -> TokenIds:
    """The tokens of *text*; empty: of our own. *tokenizer*: see ExportOptions. Raises
    ExportError, and QuantizeError for a text that is too short."""
    with tempfile.TemporaryDirectory() as folder:
        options = ExportOptions(tokenizer=tokenizer)
        companion_files.write(stored, options, Path(folder), n_ctx=N_CTX)
        tokens = tokens_of(Path(folder), text or calibration_text())
    if len(tokens) < _FEWEST_TOKENS:
        raise QuantizeError(
            f"the text has {len(tokens)} tokens: it needs {_FEWEST_TOKENS}, and some thousands are "
            "better"
        )
    return tokens
