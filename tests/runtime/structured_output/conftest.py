from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import find
from spillover.runtime.options import EngineOptions
from spillover.runtime.structured_output import trial
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.worker.loading import LoadedModel
from tests.loading import load


@pytest.fixture(scope="session", params=["storyteller", "storyteller-onnx"])
def any_model_path(request: pytest.FixtureRequest) -> Path:
    """A conversion has the logits and the vocabulary of the ONNX model: it is not tried here."""
    return Path(find(request.param).path)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run side by side and wait for their CPU time, which is limited as ever."""
    monkeypatch.setattr(trial, "WALL_S", 60.0)


@pytest.fixture(scope="module")
def loaded(any_model_path: Path) -> Iterator[LoadedModel]:
    """A bundled model in this process."""
    loaded = load(
        any_model_path, "storyteller", EngineOptions(n_ctx=512, n_parallel=2, n_threads=1)
    )
    yield loaded
    loaded.backend.close()


@pytest.fixture(scope="module")
def factory(loaded: LoadedModel) -> ConstraintFactory:
    return ConstraintFactory(loaded.backend)
