from __future__ import annotations

from pathlib import Path

import pytest

from spillover.models.catalogue import find


@pytest.fixture(scope="session", params=["storyteller", "storyteller-onnx"])
def any_model_path(request: pytest.FixtureRequest) -> Path:
    """A conversion has the logits and the vocabulary of the ONNX model: it is not tried here."""
    return Path(find(request.param).path)
