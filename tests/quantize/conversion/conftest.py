"""Conversions are measured beside other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spillover.quantize.conversion import rates


@pytest.fixture(autouse=True, scope="module")
def every_round_counts() -> Iterator[None]:
    """These tests run beside others, and want any figures at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "SLACK_CORES", 1_000.0)
        yield
