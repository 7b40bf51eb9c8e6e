"""Calls at a time, by one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from spillover.runtime.alarms import Alarms


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms()
    yield alarms
    alarms.close()


def test_calls_come_in_the_order_of_their_times(alarms: Alarms) -> None:
    called: queue.SimpleQueue[str] = queue.SimpleQueue()
    alarms.after(0.06, lambda: called.put("late"))
    alarms.after(0.01, lambda: called.put("early"))
    alarms.at(time.monotonic() - 5, lambda: called.put("overdue"))
    assert [called.get(timeout=10) for _ in range(3)] == ["overdue", "early", "late"]


def test_a_cancelled_call_does_not_come(alarms: Alarms) -> None:
    called: queue.SimpleQueue[str] = queue.SimpleQueue()
    alarms.after(0.01, lambda: called.put("cancelled")).cancel()
    alarms.after(0.03, lambda: called.put("other"))
    assert called.get(timeout=10) == "other"
    assert called.empty()


def test_many_cancelled_calls_leave_the_others(alarms: Alarms) -> None:
    called = threading.Event()
    alarms.after(0.05, called.set)
    for alarm in [alarms.after(3600, called.clear) for _ in range(1000)]:
        alarm.cancel()
        alarm.cancel()
    assert called.wait(10)


def test_an_alarm_may_set_another(alarms: Alarms) -> None:
    called = threading.Event()
    alarms.after(0, lambda: alarms.after(0, called.set))
    assert called.wait(10)


def test_a_thread_that_the_system_did_not_give_is_asked_for_again(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as started, so that no limit of any answer was ever kept again."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    called = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            alarms.after(0, called.clear)
    alarms.after(0, called.set)
    assert called.wait(10)


def test_nothing_is_called_after_the_end() -> None:
    alarms = Alarms()
    called = threading.Event()
    alarms.after(0.02, called.set)
    alarms.close()
    alarms.after(0, called.set)
    assert not called.is_set()
    assert threading.active_count() == len(threading.enumerate())
    assert all(thread.name != "alarms" for thread in threading.enumerate())
