"""Small models whose rows fill blocks of every type."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_gguf
from tests.quantize.gguf.places import CONFIG


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in F16."""
    return tiny_gguf.write_model(tmp_path_factory.mktemp("source") / "m-F16.gguf", CONFIG, "F16")
