"""The bundled models in real worker processes, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model, find
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions


@pytest.fixture(scope="session")
def model_path() -> Path:
    return Path(default_model().path)


@pytest.fixture(scope="session", params=["storyteller", "storyteller-onnx"])
def any_model_path(request: pytest.FixtureRequest) -> Path:
    """Of the same weights as GGUF and as ONNX."""
    return Path(find(request.param).path)


@pytest.fixture(scope="module")
def engine(any_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    options = EngineOptions(
        n_parallel=4, max_queue=8, cache_dir=tmp_path_factory.mktemp("cache"), n_threads=1
    )
    with LocalEngine(any_model_path, options) as engine:
        engine.wait_ready(60)
        yield engine
