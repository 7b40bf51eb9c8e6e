"""How the models of the catalogue, and those that are here, fit this device."""

from __future__ import annotations

from pathlib import Path

from spillover.models import onnx_folder
from spillover.models.catalogue import Listed, ListedFile
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.fit.device_fit import DeviceFit, fit_device
from spillover.runtime.fit.model_shape import ModelShape, gguf_shape
from spillover.runtime.fit.planner import Planner
from spillover.runtime.llama.embedding.plan import is_made_for_embedding
from spillover.runtime.machine.device import available_memory, memory_floor, total_memory
from spillover.runtime.options import EngineOptions


def fit_of_listed(listed: Listed, file: ListedFile) -> DeviceFit:
    """The fit of one file of a listed model."""
    shape = ModelShape(
        n_ctx_train=listed.n_ctx,
        size_bytes=file.size_bytes,
        kv_bytes_per_cell=listed.kv_bytes_per_token,
    )
    return fit_device(shape, available_memory() - memory_floor())


def fit_of_file(path: Path) -> DeviceFit | None:
    """The fit of a model that is here; None where its file does not tell what it needs."""
    if onnx_folder.is_onnx(path):
        return None
    try:
        shape = gguf_shape(path, read_header(path))
    except (ModelFileError, OSError):
        return None
    return fit_device(shape, available_memory() - memory_floor())


def plan_for_file(path: Path, options: EngineOptions) -> ContextFit | None:
    """How a model that is here would be laid out now; None where only its worker can tell, and for
    one without a KV cache."""
    if onnx_folder.is_onnx(path):
        return None
    try:
        header = read_header(path)
        if is_made_for_embedding(header):
            return None
        return Planner(options.settled()).plan(gguf_shape(path, header))
    except (ModelFileError, OSError):
        return None


def file_for_device(listed: Listed) -> ListedFile:
    """The quantization of a listed model that suits this device."""
    return listed.choose("", total_bytes=total_memory(), free_bytes=available_memory())


def in_words(fit: DeviceFit | None) -> str:
    """For people to read: "fits with 32k context", "needs 1.2 GB more"."""
    if fit is None:
        return ""
    if not fit.n_ctx:
        return f"needs {max(fit.missing_bytes / 1e9, 0.1):.1f} GB more"
    n = f"{fit.n_ctx // 1024}k" if fit.n_ctx >= 1024 else str(fit.n_ctx)
    return f"fits with {n} context"
