"""SmolLM2-135M-Instruct, which `.ci/setup-real-model` fetches. These tests may be skipped on a
laptop without a network; where CI is set, they fail instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.entry import CatalogueError, verify
from spillover.models.store import ModelStore
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions

NAME = "smollm2-135m:Q4_1"
FOLDER = Path(__file__).parent.parent.parent / ".venv" / "real_model"


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The file, which is what the catalogue promises."""
    try:
        entry = ModelStore(FOLDER).find(NAME)
    except CatalogueError as error:
        pytest.fail(f"{error}: remove {FOLDER} and run `.ci/setup-real-model`")
    if entry is None:
        how = f"no real model in {FOLDER}: run `.ci/setup-real-model`, as `make test` does"
        if os.environ.get("CI"):
            pytest.fail(how)
        pytest.skip(how)
    verify(entry)
    return entry.path


@pytest.fixture(scope="session")
def engine(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """Computes as llama.cpp does for one conversation: what shares a batch with others, or is cut
    into other slices, is rounded in another way, which may turn a near tie."""
    options = EngineOptions(
        engine="llama",
        deterministic=True,
        n_gpu_layers=0,
        n_ctx=2048,
        n_threads=1,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    with LocalEngine(real_model, options, name="smollm2") as engine:
        engine.wait_ready(300)
        yield engine
