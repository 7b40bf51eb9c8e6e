"""A model that reads a text and says at each position which token it expects next."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.models.onnx_folder import is_onnx
from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.model_files import files_of
from spillover.runtime.backend import Logits, Tokens


class TextReader(Protocol):
    """A loaded model, its tokenizer, and room for one chunk."""

    n_vocab: int
    n_ctx: int
    """Most tokens of a chunk."""
    notes: tuple[str, ...]
    """What a reader of the numbers has to know."""

    def tokenize(self, text: str) -> Tokens:
        """The tokens of a text, with a BOS token in front where the model wants one."""
        ...

    def read(self, tokens: Tokens, first: int) -> Logits:
        """The logits (len(tokens) - first, n_vocab) of a chunk's positions from *first* on. Nothing
        is before the chunk."""
        ...

    def close(self) -> None:
        """Free the model's memory; nothing else may be called afterwards."""
        ...


def open_reader(path: Path, n_ctx: int) -> TextReader:
    """The GGUF or ONNX model at *path*, for chunks of *n_ctx* tokens, or of as many as it can read.

    Raises QuantizeError, ModelError.
    """
    if is_onnx(path):
        from spillover.quantize.evaluation.onnx_reader import OnnxReader  # slow

        return OnnxReader(path, n_ctx)
    if path.suffix != ".gguf":
        raise QuantizeError(
            f"{path} is no GGUF file and no ONNX model: give one, or the folder of an ONNX model"
        )
    if not has_llama():
        raise QuantizeError(f"{path} needs llama.cpp: {INSTALL_LLAMA}")
    from spillover.quantize.evaluation.llama_reader import LlamaReader  # slow

    return LlamaReader(files_of(path)[0], n_ctx)
