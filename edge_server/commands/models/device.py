"""How the models of the catalogue, and those that are here, fit this device."""

from __future__ import annotations

from pathlib import Path

from spillover.models import onnx_folder
from spillover.models.catalogue import Listed, ListedFile
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.machine.device import available_memory, total_memory
from spillover.runtime.machine.memory_fit import DeviceFit, fit_device

_BYTES_PER_VALUE = 2.0


def fit_of_listed(listed: Listed, file: ListedFile) -> DeviceFit:
    """The fit of one file of a listed model."""
    return fit_device(
        size_bytes=file.size_bytes,
        n_ctx_train=listed.n_ctx,
        kv_bytes_per_cell=listed.kv_bytes_per_token,
        free_bytes=available_memory(),
    )


def fit_of_file(path: Path, size_bytes: int) -> DeviceFit | None:
    """The fit of a model that is here; None where its file does not tell what it needs."""
    if onnx_folder.is_onnx(path):
        return None
    try:
        header = read_header(path)
    except ModelFileError:
        return None
    return fit_device(
        size_bytes=size_bytes,
        n_ctx_train=header.n_ctx_train or 4096,
        kv_bytes_per_cell=header.kv_bytes_per_cell(_BYTES_PER_VALUE),
        free_bytes=available_memory(),
    )


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
