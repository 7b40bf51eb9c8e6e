"""A place for each test of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.hosting.place import Place


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def make(**options: int) -> Place:
        places.append(Place(tmp_path, **options))
        return places[-1]

    yield make
    for place in places:
        place.gate.set()
        place.host.close()
