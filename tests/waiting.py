"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_WAIT_S = 120.0
"""Far more than anything waited for takes: a test that waits for what never comes must end."""

_PAUSE_S = 0.005
"""Between two looks. Looking all the time would take a core from those who are waited for."""


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(_PAUSE_S)
