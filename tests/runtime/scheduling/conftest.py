"""Drafts of one kind in place of those that a text offers."""

from __future__ import annotations

import pytest

from spillover.runtime.scheduling import speculation
from tests.runtime.scheduling.speculating import Fixed


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> type[Fixed]:
    monkeypatch.setattr(Fixed, "rate", 0.9)
    monkeypatch.setattr(speculation, "Drafter", Fixed)
    return Fixed
