"""An exchange ends when its time is up or when somebody ends it, whatever it waits for."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from spillover.cloud_fallback.http.errors import Cancelled, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange
from spillover.cloud_fallback.http.fair_semaphore import FairSemaphore
from tests.cloud_fallback.http.waiting import Waiter


def test_a_deadline_that_passed_ends_every_wait() -> None:
    exchange = Exchange(0.0)
    exchange.waits_for = "the moon"
    with pytest.raises(TimedOut, match="the moon"):
        exchange.wait(threading.Event())


def test_a_nearer_deadline_applies_only_inside_its_block() -> None:
    now = [0.0]
    exchange = Exchange(100.0, clock=lambda: now[0])
    with exchange.within(5.0, "a token"):
        now[0] = 6.0
        with pytest.raises(TimedOut, match="a token"):
            exchange.check()
    exchange.check()


def test_a_later_deadline_does_not_hold() -> None:
    exchange = Exchange(1.0, clock=lambda: 0.5)
    with exchange.within(5.0, "a token"):
        assert exchange.deadline == 1.0


def test_a_cancelled_exchange_waits_for_nothing() -> None:
    exchange = Exchange()
    exchange.cancel()
    with pytest.raises(Cancelled):
        exchange.wait(threading.Event())


def test_cancel_ends_a_wait() -> None:
    exchange = Exchange()
    waiter = Waiter(lambda: exchange.wait(threading.Event()))
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)


def test_places_are_granted_in_order() -> None:
    places = FairSemaphore(1)
    places.acquire(Exchange())
    got: list[str] = []

    def use(name: str) -> None:
        places.acquire(Exchange())
        got.append(name)
        places.release()

    waiters = []
    for n, name in enumerate(("first", "second", "third"), 1):
        waiters.append(Waiter(partial(use, name)))
        while places.n_waiting < n:
            time.sleep(0.001)
    places.release()
    assert [waiter.error() for waiter in waiters] == [None] * 3
    assert got == ["first", "second", "third"]


def test_giving_up_the_wait_loses_no_place() -> None:
    places, cancelled = FairSemaphore(1), Exchange()
    places.acquire(Exchange())
    waiter = Waiter(lambda: places.acquire(cancelled))
    cancelled.cancel()
    assert isinstance(waiter.error(), Cancelled)
    places.release()
    places.acquire(Exchange(0.0, clock=lambda: -1.0))
    with pytest.raises(TimedOut):
        places.acquire(Exchange(0.0))
    assert places.n_waiting == 0
