"""A call that passes a limit ends its process, and says which limit it was."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spillover.runtime.limited_process import LimitedProcess, LimitPassed, TooLate

ENOUGH_S = 60.0


@pytest.fixture
def process() -> Iterator[LimitedProcess]:
    process = LimitedProcess(256 * 2**20)
    yield process
    process.end()


def test_a_process_serves_several_calls(process: LimitedProcess) -> None:
    for n in (3, 4):
        result, spent_s = process.call(math.factorial, n, cpu_s=ENOUGH_S, wall_s=ENOUGH_S)
        assert result == math.factorial(n)
        assert 0 <= spent_s < ENOUGH_S


@pytest.mark.parametrize(
    ("function", "args", "cpu_s", "message"),
    [
        (math.factorial, (10**8,), 0.1, "stopped after 0.1 s of computing"),
        (operator.mul, (b"a", 10**10), ENOUGH_S, "stopped at 256 MiB of memory"),
    ],
)
def test_a_call_in_c_is_stopped_at_its_limit(
    process: LimitedProcess, function: Any, args: tuple[Any, ...], cpu_s: float, message: str
) -> None:
    with pytest.raises(LimitPassed, match=message):
        process.call(function, *args, cpu_s=cpu_s, wall_s=ENOUGH_S)
    assert not process.is_alive


def test_a_call_that_does_not_compute_is_late(process: LimitedProcess) -> None:
    with pytest.raises(TooLate):
        process.call(time.sleep, ENOUGH_S, cpu_s=ENOUGH_S, wall_s=0.1)
    assert not process.is_alive
