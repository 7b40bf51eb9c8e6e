"""The models whose states are written to disk, and the folders for these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import Backend
from tests import tiny_memories
from tests.loading import load
from tests.runtime.kv_cache.on_disk import OPTIONS, Device, Folder


def bundled(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(find(name).path)


MODELS: dict[str, Callable[[Path], Path]] = {
    "gguf": bundled("storyteller"),
    "onnx": bundled("storyteller-onnx"),
    "windowed": lambda folder: tiny_memories.write_windowed(folder / "model.gguf"),
    "hybrid": lambda folder: tiny_memories.write_hybrid(folder / "model.gguf"),
}


@pytest.fixture(scope="module", params=["gguf", "onnx", "windowed"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backend(model: Path) -> Iterator[Backend]:
    backend = load(model, "tiny", OPTIONS).backend
    yield backend
    backend.close()


@pytest.fixture
def device(backend: Backend, model: Path, tmp_path: Path) -> Device:
    return Device(backend, model, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
