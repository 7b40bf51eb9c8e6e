"""How large the weights of a mixed recipe may be, and the tokens that show which ones matter."""

from __future__ import annotations

import tempfile
from pathlib import Path

from msgspec import Struct

from spillover.quantize.onnx_export import companion_files
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds, tokens_of
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.texts import calibration_text

N_CTX = 512


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


def tokens_for(stored: HfSource | GgufSource, text: str, tokenizer: Path | None = None) -> TokenIds:
    """The tokens of *text*; empty: of our own. *tokenizer*: see ExportOptions. Raises
    ExportError."""
    with tempfile.TemporaryDirectory() as folder:
        options = ExportOptions(tokenizer=tokenizer)
        companion_files.write(stored, options, Path(folder), n_ctx=N_CTX)
        return tokens_of(Path(folder), text or calibration_text())
