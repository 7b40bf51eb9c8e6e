"""A hub, a folder for models, and a list of the user's own."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import huggingface_hub.constants
import pytest

from spillover.models import catalogue
from spillover.models.store import ModelStore
from tests.models.fake_hub import FakeHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    """A hub that the client takes for Hugging Face, and an empty cache."""
    hub = FakeHub()
    constants = huggingface_hub.constants
    cache = str(tmp_path / "cache")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield hub
    hub.close()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own models.toml."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "spillover" / "models.toml"
    path.parent.mkdir(parents=True)
    catalogue._read.cache_clear()
    return path
