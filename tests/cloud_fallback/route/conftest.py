"""The bundled model and fake providers behind one router."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests.cloud_fallback.route.desk import Desk, provider
from tests.fakes.fake import Fake
from tests.measured import measured

MakeDesk = Callable[..., Desk]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    cache_dir = measured(tmp_path_factory.mktemp("cache"))
    options = EngineOptions(n_parallel=4, max_queue=32, cache_dir=cache_dir, n_threads=1)
    with LocalEngine(Path(default_model().path), options, name="storyteller") as engine:
        engine.wait_ready(60)
        yield engine


@pytest.fixture
def make_desk(engine: LocalEngine, tmp_path: Path) -> Iterator[MakeDesk]:
    """Makes a desk; of providers when they are given."""
    desks: list[Desk] = []

    def make(*fakes: Fake, **settings: Any) -> Desk:
        providers = [provider(fake, f"fake-{i}") for i, fake in enumerate(fakes, 1)]
        desks.append(Desk(engine, tmp_path, settings.pop("providers", providers), **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(make_desk: MakeDesk, fake: Fake) -> Desk:
    """One provider of OpenAI's dialect."""
    return make_desk(fake)
