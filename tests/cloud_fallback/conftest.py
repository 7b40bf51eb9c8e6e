"""What the tests of the cloud share."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from tests.cloud_fallback.cloud_answers import MakeEngine
from tests.cloud_fallback.providers import engine_for
from tests.fakes.fake import Fake


@pytest.fixture(scope="session")
def prepared() -> None:
    """The libraries are imported, as a server does at its start: not within a provider's time."""
    http = Http()
    http.prepare()
    http.close()


@pytest.fixture
def http(prepared: None) -> Generator[Http]:
    """Connections that are closed at the end."""
    http = Http()
    yield http
    http.close()


@pytest.fixture
def make_engine(fake: Fake, http: Http) -> MakeEngine:
    """Makes an engine for the fake."""

    def make(dialect: str = "openai", **fields: Any) -> CloudEngine:
        return engine_for(fake, dialect, http=http, **fields)

    return make
