"""The places of these tests, which share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from tests.edge_server.handoff_reasons.place import CALM, SENSORS, MakePlace, Place
from tests.edge_server.routed import routed_server
from tests.fakes.fake import Fake


@pytest.fixture(scope="module")
def token_ids() -> Callable[[str], list[int]]:
    """The token ids of a text."""
    with LocalEngine(default_model().path) as engine:
        engine.wait_ready(60)
        known = {
            text: list(engine.tokenize(text, add_special=False, parse_special=False))
            for text in ("The end [INST]", "а", " fox", " bird")  # noqa: RUF001  # Cyrillic
        }
    return known.__getitem__


@pytest.fixture(scope="module")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePlace]:
    """Makes a place with the settings of a test; the same settings share a place."""
    places: dict[str, Place] = {}

    def make(tables: str = CALM, top: str = "") -> Place:
        known = top + tables
        if known not in places:
            folder = tmp_path_factory.mktemp("place")
            (folder / "hook").mkdir()
            (folder / "hook" / "sitecustomize.py").write_text(SENSORS)
            environment = {
                "READING": str(folder / "reading.json"),
                "PYTHONPATH": str(folder / "hook"),
            }
            fake = Fake()
            server = routed_server(
                folder,
                fake,
                tables=tables,
                top=f"warms_connections = false\n{top}",
                environment=environment,
            )
            places[known] = Place(server, fake, folder / "reading.json")
        place = places[known]
        place.reading.unlink(missing_ok=True)
        return place

    yield make
    for place in places.values():
        place.feels()
        assert place.server.stop() == 0, place.server.said
        place.fake.stop()
