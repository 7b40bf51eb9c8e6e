"""A call ends when its time is up or when somebody ends it, whatever it waits for."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from spillover.cloud_fallback.http.call import Call
from spillover.cloud_fallback.http.errors import Stopped, TimedOut
from spillover.cloud_fallback.http.slots import Slots
from tests.cloud_fallback.http.waiting import Waiter


def test_a_deadline_that_passed_ends_every_wait() -> None:
    call = Call(0.0)
    call.waits_for = "the moon"
    with pytest.raises(TimedOut, match="the moon"):
        call.wait(threading.Event())


def test_a_nearer_deadline_holds_for_a_while() -> None:
    now = [0.0]
    call = Call(100.0, clock=lambda: now[0])
    with call.within(5.0, "a token"):
        now[0] = 6.0
        with pytest.raises(TimedOut, match="a token"):
            call.check()
    call.check()


def test_a_later_deadline_does_not_hold() -> None:
    call = Call(1.0, clock=lambda: 0.5)
    with call.within(5.0, "a token"):
        assert call.deadline == 1.0


def test_a_stopped_call_waits_for_nothing() -> None:
    call = Call()
    call.stop()
    with pytest.raises(Stopped):
        call.wait(threading.Event())


def test_stop_ends_a_wait() -> None:
    call = Call()
    waiter = Waiter(lambda: call.wait(threading.Event()))
    call.stop()
    assert isinstance(waiter.error(), Stopped)


def test_slots_go_to_who_came_first() -> None:
    slots = Slots(1)
    slots.acquire(Call())
    got: list[str] = []

    def use(name: str) -> None:
        slots.acquire(Call())
        got.append(name)
        slots.release()

    waiters = []
    for n, name in enumerate(("first", "second", "third"), 1):
        waiters.append(Waiter(partial(use, name)))
        while slots.n_waiting < n:
            time.sleep(0.001)
    slots.release()
    assert [waiter.error() for waiter in waiters] == [None] * 3
    assert got == ["first", "second", "third"]


def test_who_gives_up_waiting_loses_no_slot() -> None:
    slots, stopped = Slots(1), Call()
    slots.acquire(Call())
    waiter = Waiter(lambda: slots.acquire(stopped))
    stopped.stop()
    assert isinstance(waiter.error(), Stopped)
    slots.release()
    slots.acquire(Call(0.0, clock=lambda: -1.0))
    with pytest.raises(TimedOut):
        slots.acquire(Call(0.0))
    assert slots.n_waiting == 0
