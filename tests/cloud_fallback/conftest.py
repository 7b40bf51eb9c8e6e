"""What the tests of the cloud share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from spillover.cloud_fallback.http.client import Http


@pytest.fixture
def http() -> Generator[Http]:
    """Connections that are closed at the end."""
    http = Http()
    yield http
    http.close()
