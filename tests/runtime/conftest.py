"""The bundled models in real worker processes, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model, find
from spillover.quantize.conversion.compare import prepare
from spillover.runtime.conversions.choice import look_up
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests.measured import measured


@pytest.fixture(scope="session")
def model_path() -> Path:
    return Path(default_model().path)


@pytest.fixture(scope="session")
def conversion_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled GGUF file as it is served by ONNX Runtime."""
    options = EngineOptions(cache_dir=tmp_path_factory.mktemp("conversions"), n_threads=1)
    prepare(model_path, options, lambda what, n_done, n_all: None, measures=False)
    found = look_up(model_path, options)
    assert found.conversion is not None
    assert found.conversion.fidelity is not None
    assert found.conversion.fidelity.fault == ""
    folder = found.folder(options)
    assert folder is not None
    return folder


@pytest.fixture(scope="session", params=["storyteller", "storyteller-onnx", "converted"])
def any_model_path(request: pytest.FixtureRequest) -> Path:
    """Of the same weights as GGUF, as ONNX, and as the GGUF file's conversion."""
    if request.param == "converted":
        path: Path = request.getfixturevalue("conversion_path")
        return path
    return Path(find(request.param).path)


@pytest.fixture(scope="module")
def engine(any_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    cache_dir = measured(tmp_path_factory.mktemp("cache"), any_model_path)
    options = EngineOptions(n_parallel=4, max_queue=8, cache_dir=cache_dir, n_threads=1)
    with LocalEngine(any_model_path, options) as engine:
        engine.wait_ready(60)
        yield engine
