"""The same trained model in every form that a backend reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from spillover.models.catalogue import default_model, find
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.backend import Backend, Logits
from spillover.runtime.onnx.backend import OnnxBackend
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.device_runner import DeviceRunner
from spillover.runtime.onnx.runners.execution import runtime_version
from spillover.runtime.options import EngineOptions
from tests import opset24_decoder, plain_decoder
from tests.loading import load, opened_onnx
from tests.storyteller import STORYTELLER

FIRST_WITH_OPSET_24 = (1, 24)


def _bundled(name: str) -> Callable[[Path], Path]:
    return lambda target: Path(find(name).path)


def _exported(options: ExportOptions) -> Callable[[Path], Path]:
    def make(target: Path) -> Path:
        export(STORYTELLER, target, options, lambda n_done, n_all: None)
        return target

    return make


def _from_gguf(target: Path) -> Path:
    export(default_model().path, target, ExportOptions(), lambda n_done, n_all: None)
    return target


def _scattering(target: Path) -> Path:
    if runtime_version() < FIRST_WITH_OPSET_24:
        pytest.skip("this onnxruntime knows no opset 24")
    opset24_decoder.write(STORYTELLER, target)
    for file in STORYTELLER.glob("*.json"):
        shutil.copy(file, target)
    return target


MAKERS: dict[str, Callable[[Path], Path]] = {
    "gguf": _bundled("storyteller"),
    "gguf-apart": _bundled("storyteller"),
    "onnx-int8": _bundled("storyteller-onnx"),
    "onnx-from-gguf": _from_gguf,
    "onnx-int4": _exported(ExportOptions(weights="int4")),
    "onnx-fp16": _exported(ExportOptions(weights="fp16")),
    "onnx-fp32": _exported(ExportOptions(weights="fp32", external_data=True)),
    "onnx-genai": _exported(ExportOptions(weights="int8", interface="genai")),
    "onnx-plain": lambda target: plain_decoder.write(STORYTELLER, target),
    "onnx-as-it-is": lambda target: plain_decoder.write(STORYTELLER, target),
    "onnx-on-device": lambda target: plain_decoder.write(STORYTELLER, target),
    "onnx-opset-24": _scattering,
    "onnx-merged": lambda target: plain_decoder.write(STORYTELLER, target, merged=True),
}
"""By name: what makes the model in a folder that does not exist yet, and gives its path."""


def opened(name: str, target: Path, options: EngineOptions) -> Backend:
    """The backend of a form, which is made in *target* if it has to be."""
    path = MAKERS[name](target)
    if name == "onnx-as-it-is":
        return opened_onnx(path, options, rewrite=False).backend
    if name == "onnx-on-device":
        return on_device(path, options)
    if name == "gguf-apart":
        options = msgspec.structs.replace(options, second_layout="on")
    return load(path, "storyteller", options).backend


def on_device(path: Path, options: EngineOptions) -> Backend:
    """As an accelerator would run it, with the KV cache where ONNX Runtime keeps it."""
    backend = opened_onnx(path, options, rewrite=False).backend
    assert isinstance(backend, OnnxBackend)
    layout = prepare(path / "model.onnx", runtime_version=runtime_version(), rewrite=False).layout
    n_seq, n_ctx = backend.info.n_seq, options.n_ctx or 1024
    runner = DeviceRunner(backend._session, layout, "cpu", n_seq=n_seq, capacity=n_ctx)
    backend._runner = runner
    return backend


def close(backend: Backend, a: Logits, b: Logits) -> bool:
    """The same but for rounding. Quantized products have other kernels for one row than for many,
    which makes up to 5 %; one wrong token in a text of a sentence makes 6 % at the very least."""
    tolerance = 0.005 if " fp" in backend.info.description else 0.055
    return float(np.sqrt(((a - b) ** 2).mean())) < tolerance * float(a.std())
