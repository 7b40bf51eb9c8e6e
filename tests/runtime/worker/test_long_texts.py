"""Long texts are read beside the short ones."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spillover.runtime.backend import Tokens
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ContextOverflow, EngineBusy, InvalidRequest
from spillover.runtime.events import Finished
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.tools.formats import HERMES
from spillover.runtime.worker import long_texts, protocol
from spillover.runtime.worker.constraint_compiler import ConstraintCompiler
from spillover.runtime.worker.intake import Intake
from spillover.runtime.worker.long_texts import MAX_WAITING, Command, LongTexts, is_long
from spillover.runtime.worker.protocol import AskTokens, Submit
from tests.answers import ask

LONG = "a" * (long_texts.LONG_CHARS + 1)


def submit(number: int, **fields: object) -> Submit:
    return Submit(id=number, request=ask(LONG), seed=0, **fields)  # type: ignore[arg-type]  # passed on as they are


class Reader:
    """Reads a command when it is let."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.entered: list[int] = []
        self.may_go_on = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.texts = LongTexts(self.read)

    def read(self, command: Command) -> None:
        self.begun.append(command.id)
        self.has_begun.release()
        assert self.may_go_on.acquire(timeout=60)
        self.texts.finish(command.id, lambda: self.entered.append(command.id))


def test_texts_count_wherever_they_stand() -> None:
    asked = AskTokens(id=1, text=LONG, add_special=False, parse_special=False)
    assert is_long(asked)
    assert is_long(submit(1))
    assert not is_long(Submit(id=1, request=ask("short"), seed=0))


def test_short_ones_are_answered_while_a_long_one_is_read() -> None:
    """All commands used to wait while the tokenizer read megabytes."""
    may_go_on, reports = threading.Event(), queue.SimpleQueue[protocol.Report]()

    class Words:
        """A tokenizer that takes its time for long texts."""

        def tokenize(self, text: str, **_: bool) -> Tokens:
            assert len(text) < len(LONG) or may_go_on.wait(10)
            return np.zeros(len(text.split()), dtype=np.int32)

    model: Any = SimpleNamespace(
        backend=Words(),
        template=SimpleNamespace(tag_pairs=()),
        embedder=None,
        card=SimpleNamespace(name="words"),
    )
    scheduler: Any = None
    intake = Intake(model, scheduler, reports.put, ConstraintCompiler(model.backend, ()))
    for number, text in ((1, LONG), (2, "two words")):
        intake.take(AskTokens(id=number, text=text, add_special=True, parse_special=True))
    assert reports.get(timeout=60) == protocol.Tokens(id=2, token_ids=(0, 0))
    may_go_on.set()
    assert reports.get(timeout=60) == protocol.Tokens(id=1, token_ids=(0,))


def test_nobody_waits_for_a_template_that_was_slow_before() -> None:
    may_go_on, reports = threading.Event(), queue.SimpleQueue[protocol.Report]()

    class Slow:
        tag_pairs = ()
        tool_format = HERMES
        is_slow = True
        source = ""

        def prompt(self, *_: object, **__: object) -> None:
            assert may_go_on.wait(60)
            raise InvalidRequest("refused", "messages")

    backend = SimpleNamespace(tokenize=lambda text, **_: np.zeros(1, dtype=np.int32))
    card = SimpleNamespace(name="slow")
    model: Any = SimpleNamespace(backend=backend, template=Slow(), embedder=None, card=card)
    scheduler: Any = None
    intake = Intake(model, scheduler, reports.put, ConstraintCompiler(model.backend, ()))
    messages = (Message(role="user", content="Hi"),)
    intake.take(Submit(id=1, request=GenerationRequest(messages=messages), seed=0))
    intake.take(AskTokens(id=2, text="a", add_special=True, parse_special=True))
    assert reports.get(timeout=60) == protocol.Tokens(id=2, token_ids=(0,))
    may_go_on.set()
    assert reports.get(timeout=60) == protocol.Rejected(id=1, message="refused", param="messages")


def test_a_withdrawn_job_is_not_started() -> None:
    reader = Reader()
    for number in (1, 2, 3):
        reader.texts.add(submit(number))
    assert reader.has_begun.acquire(timeout=60)
    assert reader.texts.take_back(1) == submit(1)
    assert reader.texts.take_back(2) == submit(2)
    assert reader.texts.take_back(2) is None
    reader.may_go_on.release()
    assert reader.has_begun.acquire(timeout=60)
    assert reader.begun == [1, 3]
    reader.texts.add(submit(4))
    reader.may_go_on.release()
    assert reader.has_begun.acquire(timeout=60)
    assert reader.entered == [3]
    reader.may_go_on.release()


def test_few_may_wait_except_those_that_were_accepted_before() -> None:
    reader = Reader()
    for number in range(MAX_WAITING):
        reader.texts.add(submit(number))
    with pytest.raises(EngineBusy):
        reader.texts.add(submit(90))
    reader.texts.add(submit(91, resumed=((),)))
    reader.may_go_on.release(MAX_WAITING + 1)


def test_the_background_is_read_last_and_takes_nobody_s_place() -> None:
    reader = Reader()
    quiet = ask(LONG, priority="background")
    for number in range(MAX_WAITING):
        reader.texts.add(Submit(id=number, request=quiet, seed=0))
    with pytest.raises(EngineBusy):
        reader.texts.add(Submit(id=90, request=quiet, seed=0))
    assert reader.has_begun.acquire(timeout=60)
    reader.texts.add(submit(50))
    reader.may_go_on.release()
    assert reader.has_begun.acquire(timeout=60)
    assert reader.begun == [0, 50]
    reader.may_go_on.release(MAX_WAITING)


def test_a_long_prompt_can_be_cancelled_before_it_is_read(engine: LocalEngine) -> None:
    first, cancellation = engine.stream(ask("a" * 3_000_000)), Cancellation()
    second = engine.stream(ask("b" * 3_000_000, n=2), cancellation)
    errors: list[BaseException] = []

    def read_first() -> None:
        try:
            next(first)
        except ContextOverflow as error:
            errors.append(error)

    thread = threading.Thread(target=read_first)
    thread.start()
    cancellation.cancel()
    ends = list(second)
    thread.join(60)
    assert all(isinstance(end, Finished) and end.reason == "cancelled" for end in ends)
    assert len(ends) == 2
    assert len(errors) == 1
