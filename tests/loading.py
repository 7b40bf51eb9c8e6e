"""Models that write answers, opened in this process."""

from __future__ import annotations

from pathlib import Path

from spillover.runtime.embedding.opened import OpenedModel
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.onnx.opening import open_onnx
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.loading import LoadedModel
from spillover.runtime.worker.loading import load as load_any


def load(path: Path, name: str, options: EngineOptions) -> LoadedModel:
    """As a worker does."""
    loaded = load_any(path, name, options)
    assert isinstance(loaded, LoadedModel)
    return loaded


def opened_onnx(path: Path, options: EngineOptions, *, rewrite: bool = True) -> OpenedModel:
    """The backend of an ONNX model, and how its context was laid out."""
    opened = open_onnx(path, options, rewrite=rewrite)
    assert isinstance(opened, OpenedModel)
    return opened


def opened_gguf(path: Path, options: EngineOptions) -> OpenedModel:
    """The same of a GGUF file."""
    opened = open_gguf(path, options)
    assert isinstance(opened, OpenedModel)
    return opened
