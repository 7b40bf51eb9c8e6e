"""What surrounds the scheduler's loop: inbox and outbox. Pure parts, a fake clock."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from msgspec import structs

from spillover.runtime.errors import EngineBusy
from spillover.runtime.events import Delta, EngineEvent, Queued
from spillover.runtime.request import Priority
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.outbox import HOLD_S, Outbox
from spillover.runtime.scheduling.sequence import Job
from tests.answers import ask


class Sent:
    """An outbox, what it has sent, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.frames: list[list[tuple[int, EngineEvent]]] = []
        self.outbox = Outbox(self.frames.append, lambda: self.now)

    def step(self, text: str, took_s: float, next_s: float | None) -> None:
        self.now += took_s
        self.outbox.add(1, Delta(text=text))
        self.outbox.after_step(next_s)


def test_the_text_of_quick_steps_travels_together_and_never_waits_longer_than_allowed() -> None:
    sent = Sent()
    added: list[float] = []
    for i in range(40):
        sent.step(str(i), 0.0005, 0.0005)
        added.append(sent.now)
        n_sent = sum(map(len, sent.frames))
        assert all(sent.now - at < HOLD_S for at in added[n_sent:])
    sent.outbox.flush()
    texts = [e.text for frame in sent.frames for _, e in frame if isinstance(e, Delta)]
    assert texts == [str(i) for i in range(40)]
    assert len(sent.frames) < 10


def test_the_text_of_slow_steps_is_sent_at_once() -> None:
    sent = Sent()
    for i in range(3):
        sent.step(str(i), 0.030, 0.030)
        assert len(sent.frames) == i + 1


def test_an_event_without_text_releases_all_before_it() -> None:
    sent = Sent()
    sent.outbox.add(1, Delta(text="a"))
    sent.outbox.add(2, Queued(position=0, n_prompt_tokens=1))
    sent.outbox.after_step(0.0001)
    assert [[job for job, _ in frame] for frame in sent.frames] == [[1, 2]]


def test_nothing_waits_for_an_unpredictable_step() -> None:
    sent = Sent()
    sent.step("a", 0.0, None)
    assert len(sent.frames) == 1


def job(job_id: int, priority: Priority = "normal") -> Job:
    prompt = np.arange(3, dtype=np.int32)
    request = structs.replace(ask(), priority=priority)
    return Job(id=job_id, request=request, prompt=prompt, seed=0, pipelines=())


def test_the_inbox_is_bounded_and_opens_again() -> None:
    inbox, positions = Inbox(n_parallel=1, max_queue=1), list[int]()
    for i in (1, 2):
        inbox.submit(job(i), positions.append, unlimited=False)
    with pytest.raises(EngineBusy) as caught:
        inbox.submit(job(3), positions.append, unlimited=False)
    assert caught.value.retry_after_s >= 1
    inbox.submit(job(3), positions.append, unlimited=True)
    assert positions == [0, 1, 2]
    inbox.post(2)
    taken = inbox.take(wait_s=0) or []
    assert [order if isinstance(order, int) else order.id for order in taken] == [1, 2, 3, 2]
    for _ in range(2):
        inbox.close_one("normal", 4.0)
    inbox.submit(job(4), positions.append, unlimited=False)


def test_the_background_has_a_bound_of_its_own_and_takes_nobody_s_place() -> None:
    inbox, positions = Inbox(n_parallel=1, max_queue=0, max_background=2), list[int]()
    for i in (1, 2):
        inbox.submit(job(i, "background"), positions.append, unlimited=False)
    with pytest.raises(EngineBusy, match="max_background"):
        inbox.submit(job(3, "background"), positions.append, unlimited=False)
    inbox.submit(job(4), positions.append, unlimited=False)
    assert positions == [0, 1, 0]
    with pytest.raises(EngineBusy, match="max_queue"):
        inbox.submit(job(5), positions.append, unlimited=False)
    inbox.close_one("background", 1.0)
    inbox.submit(job(6, "background"), positions.append, unlimited=False)


def test_a_waiting_loop_is_woken_by_an_order_and_by_the_end() -> None:
    inbox = Inbox(n_parallel=1, max_queue=1)
    taken: list[object] = []
    loop = threading.Thread(target=lambda: taken.append(inbox.take(wait_s=None)))
    loop.start()
    inbox.post(7)
    loop.join(10)
    assert taken == [[7]]
    inbox.stop()
    assert inbox.take(wait_s=None) is None
    assert inbox.take(wait_s=0) is None


def test_a_loop_that_is_woken_gets_no_orders_and_is_woken_once() -> None:
    inbox = Inbox(n_parallel=1, max_queue=1)
    inbox.wake()
    assert inbox.take(wait_s=None) == []
    assert inbox.take(wait_s=1e-6) == []
    loop = threading.Thread(target=inbox.take, kwargs={"wait_s": None})
    loop.start()
    inbox.wake()
    loop.join(10)
    assert not loop.is_alive()
