"""Asks the user whether an answer may leave the device, and waits for the reply.

A question is answered once. No reply, a full desk, a cancelled answer and a closed desk all mean
that nothing leaves.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Generator
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import ConsentAsked

Reply: TypeAlias = Literal["accepted", "already_decided", "unknown"]
"""What became of a user's yes or no."""

MAX_PENDING = 64
MAX_WAIT_S = 600.0
MAX_DECIDED = 1024
MAX_REMEMBERED = 256
MAX_KEPT_LOCAL = 4096

K = TypeVar("K")
V = TypeVar("V")


class PendingConsent(Struct, frozen=True, kw_only=True):
    """A question that nobody has answered yet."""

    answer_id: str
    asked: ConsentAsked


class _Question:
    def __init__(self, answer_id: str, asked: ConsentAsked, conversation: str | None) -> None:
        self.answer_id = answer_id
        self.asked = asked
        self.conversation = conversation
        self.decided = threading.Event()
        self.granted: bool | None = None


class ConsentDesk:
    """The open questions of all answers. May be called from any thread; only ask() waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._questions: dict[str, _Question] = {}
        self._decided: OrderedDict[str, None] = OrderedDict()
        self._remembered: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._kept_local: OrderedDict[str, None] = OrderedDict()
        self._legs: dict[str, list[Cancellation]] = {}

    def ask(
        self,
        answer_id: str,
        asked: ConsentAsked,
        cancellation: Cancellation | None = None,
        conversation: str | None = None,
    ) -> bool | None:
        """The user's reply, or None without one: after asked.timeout_s, on *cancellation*, when
        the desk closes, or when it is full.

        A reply remembered for *conversation* and this provider is given at once.
        """
        question = _Question(answer_id, asked, conversation)
        with self._lock:
            if answer_id in self._kept_local:
                return False
            memory = _memory(question)
            if memory and (known := self._remembered.get(memory)) is not None:
                return known
            if self._closed or len(self._questions) >= MAX_PENDING or asked.id in self._questions:
                return None
            self._questions[asked.id] = question
        try:
            return self._wait(question, cancellation)
        finally:
            with self._lock:
                self._close_question(question)

    def _wait(self, question: _Question, cancellation: Cancellation | None) -> bool | None:
        wake = question.decided.set
        if cancellation:
            cancellation.subscribe(wake)
        try:
            question.decided.wait(_bounded(question.asked.timeout_s))
        finally:
            if cancellation:
                cancellation.unsubscribe(wake)
        with self._lock:
            self._close_question(question)
            return question.granted

    def answer(self, consent_id: str, granted: bool, *, remember: bool = False) -> Reply:
        """Reply to a question. *remember*: the same for the rest of its conversation with this
        provider, where the conversation is known."""
        with self._lock:
            question = self._questions.get(consent_id)
            if question is None:
                return "already_decided" if consent_id in self._decided else "unknown"
            question.granted = granted
            if remember and (memory := _memory(question)):
                _keep(self._remembered, memory, granted, MAX_REMEMBERED)
            self._close_question(question)
            return "accepted"

    def pending(self, answer_id: str | None = None) -> list[PendingConsent]:
        """The open questions (of one answer), oldest first."""
        with self._lock:
            return [
                PendingConsent(answer_id=question.answer_id, asked=question.asked)
                for question in self._questions.values()
                if answer_id in (None, question.answer_id)
            ]

    def forget(self, conversation: str) -> None:
        """Ask again in *conversation*."""
        with self._lock:
            for key in [key for key in self._remembered if key[0] == conversation]:
                del self._remembered[key]

    def keep_local(self, answer_id: str) -> None:
        """The user wants this answer to stay on the device from now on: an open question is
        answered no, requests under way are cancelled, and all later questions are a no."""
        with self._lock:
            _keep(self._kept_local, answer_id, None, MAX_KEPT_LOCAL)
            for question in list(self._questions.values()):
                if question.answer_id == answer_id:
                    question.granted = False
                    self._close_question(question)
            legs = list(self._legs.get(answer_id, ()))
        for leg in legs:
            leg.cancel()

    def is_kept_local(self, answer_id: str) -> bool:
        with self._lock:
            return answer_id in self._kept_local

    @contextlib.contextmanager
    def leg(self, answer_id: str, cancellation: Cancellation) -> Generator[None]:
        """While open, keep_local() cancels *cancellation*, which is that of a cloud request."""
        with self._lock:
            legs = self._legs.setdefault(answer_id, [])
            legs.append(cancellation)
            is_kept_local = answer_id in self._kept_local
        if is_kept_local:
            cancellation.cancel()
        try:
            yield
        finally:
            with self._lock:
                legs.remove(cancellation)
                if not legs:
                    self._legs.pop(answer_id, None)

    def close(self) -> None:
        """End all waiting without a yes; every later question goes unanswered."""
        with self._lock:
            self._closed = True
            for question in list(self._questions.values()):
                self._close_question(question)

    def _close_question(self, question: _Question) -> None:
        if self._questions.get(question.asked.id) is question:
            del self._questions[question.asked.id]
            _keep(self._decided, question.asked.id, None, MAX_DECIDED)
        question.decided.set()


def _memory(question: _Question) -> tuple[str, str] | None:
    """What a remembered reply holds for: one conversation and one provider."""
    if not question.conversation:
        return None
    target = question.asked.target
    return question.conversation, target.provider or target.model


def _bounded(timeout_s: float) -> float:
    return min(max(timeout_s, 0.0), MAX_WAIT_S) if math.isfinite(timeout_s) else MAX_WAIT_S


def _keep(store: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Remember *key*, forgetting the oldest beyond *limit*."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > limit:
        store.popitem(last=False)
