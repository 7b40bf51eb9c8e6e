"""What several threads do to the requests of one dispatcher."""

from __future__ import annotations

import queue
import threading
from io import BytesIO
from typing import Any

import pytest

from spillover.runtime.errors import DeadlyRequest, EngineBusy, EngineClosed, InvalidRequest
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.worker.protocol import Rejected, Submit, decode_command, read_frame
from spillover.runtime.worker.supervision.dispatcher import Dispatcher
from spillover.runtime.worker.supervision.ticket import Mail


class Lock(threading.Condition):
    """A lock that can tell that somebody asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __enter__(self) -> bool:
        self.asked.put(None)
        return super().__enter__()


class Mailbox(queue.SimpleQueue[Mail]):
    """Runs *meanwhile* in another thread when the first mail comes, until it has run or waits for
    the lock."""

    def __init__(self, lock: Lock, meanwhile: Any) -> None:
        self._lock = lock
        self.thread = threading.Thread(target=self._run, args=(meanwhile,))

    def _run(self, meanwhile: Any) -> None:
        meanwhile()
        self._lock.asked.put(None)

    def put(self, *arguments: Any, **named: Any) -> None:
        self.thread.start()
        self._lock.asked.get(timeout=60)
        super().put(*arguments, **named)


def test_a_refusal_that_comes_while_all_requests_end_disturbs_nobody() -> None:
    """It was taken out of the requests while they were gone through, and close() failed."""
    lock = Lock()
    dispatcher = Dispatcher("model", EngineOptions(), lock)
    first, second = (
        dispatcher.submit(GenerationRequest(prompt=text), seed=1) for text in ("a", "b")
    )
    while not lock.asked.empty():
        lock.asked.get()
    refusal = Rejected(id=second.id, message="no")
    first.mailbox = mailbox = Mailbox(lock, lambda: dispatcher.receive(refusal))
    with lock:
        lock.asked.get()
        dispatcher.fail(EngineClosed("closed"), 0.0)
    mailbox.thread.join(60)
    assert isinstance(first.mailbox.get(), EngineClosed)
    assert isinstance(second.mailbox.get(), EngineClosed | InvalidRequest)
    assert dispatcher.n_open == 0


class Worker:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.prompts: list[str | None] = []

    def send_frame(self, frame: bytes) -> None:
        command = decode_command(read_frame(BytesIO(frame)) or b"")
        assert isinstance(command, Submit)
        assert not isinstance(command.request.prompt, tuple)
        self.prompts.append(command.request.prompt)


def test_while_there_is_no_worker_the_background_waits_apart_and_goes_last() -> None:
    """Titles and tags used to fill the queue while a worker was restarted."""
    options = EngineOptions(max_queue=1, n_parallel=1, max_background=1)
    dispatcher = Dispatcher("model", options, threading.Condition())
    quiet = GenerationRequest(prompt="title", priority="background")
    dispatcher.submit(quiet)
    with pytest.raises(EngineBusy):
        dispatcher.submit(quiet)
    for text in ("a", "b"):
        dispatcher.submit(GenerationRequest(prompt=text))
    with pytest.raises(EngineBusy):
        dispatcher.submit(GenerationRequest(prompt="c"))
    worker: Any = Worker()
    pulse: Any = None
    dispatcher.serve(worker, pulse)
    assert worker.prompts == ["a", "b", "title"]


def test_who_runs_when_memory_is_short_is_not_to_blame() -> None:
    """A prompt that was alone when the system ended its worker twice used to be refused."""
    dispatcher = Dispatcher("model", EngineOptions(), threading.Condition())
    ticket = dispatcher.submit(GenerationRequest(prompt="long"), seed=1)
    worker: Any = Worker()
    pulse: Any = None
    for _ in range(9):
        dispatcher.serve(worker, pulse)
        dispatcher.lose("got no more memory", blames=False)
    assert worker.prompts == ["long"] * 9
    assert ticket.mailbox.empty()
    for _ in range(2):
        dispatcher.serve(worker, pulse)
        dispatcher.lose("got no more memory")
    assert isinstance(ticket.mailbox.get(), DeadlyRequest)


def test_a_model_that_writes_nothing_in_the_background_says_so_at_once() -> None:
    """It used to ask for fewer choices than one, or to try again later."""
    dispatcher = Dispatcher("model", EngineOptions(max_background=0), threading.Condition())
    with pytest.raises(InvalidRequest, match="max_background is 0") as refused:
        dispatcher.submit(GenerationRequest(prompt="a", priority="background"))
    assert refused.value.param == "priority"
    assert dispatcher.submit(GenerationRequest(prompt="a")).is_open
