"""Asks the user whether an answer may leave the device, and waits for the reply.

A question is answered once. Without a yes nothing leaves: not when nobody replies, when too many
questions are open, when the answer is cancelled, or when the program ends.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Generator
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from spillover.cloud_fallback.events import ConsentAsked
from spillover.runtime.cancellation import Cancellation

ConsentReply: TypeAlias = Literal["accepted", "already_decided", "unknown"]
"""What a user's yes or no led to."""

MAX_PENDING = 64
MAX_WAIT_S = 600.0
MAX_DECIDED = 1024
MAX_REMEMBERED = 256
MAX_KEPT_LOCAL = 4096

K = TypeVar("K")
V = TypeVar("V")


class PendingConsent(Struct, frozen=True, kw_only=True):
    """An open question."""

    answer_id: str
    asked: ConsentAsked


class Question:
    """One question of one answer."""

    def __init__(
        self,
        lock: threading.Lock,
        answer_id: str,
        asked: ConsentAsked,
        conversation: str | None,
    ) -> None:
        self._lock = lock
        self.answer_id = answer_id
        self.asked = asked
        self.conversation = conversation
        self.granted: bool | None = None
        self._decided = threading.Event()

    def decide(self, granted: bool | None) -> bool:
        """Whether this decision counts: only the first does. The caller holds the lock."""
        if self._decided.is_set():
            return False
        self.granted = granted
        self._decided.set()
        return True

    def wait(self, cancellation: Cancellation | None = None) -> bool | None:
        """The user's reply; None without one: after the question's timeout, on *cancellation*, when
        the questions are closed, or when too many are open."""
        with (cancellation or Cancellation()).subscribed(self._decided.set):
            self._decided.wait(_bounded(self.asked.timeout_s))
        with self._lock:
            # A reply that comes from here on is "already_decided".
            self.decide(None)
            return self.granted


class Consents:
    """The questions and decisions of all answers. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._questions: dict[str, Question] = {}
        self._decided: OrderedDict[str, None] = OrderedDict()
        self._remembered: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._kept_local: OrderedDict[str, None] = OrderedDict()
        self._requests: dict[str, list[Cancellation]] = {}

    @contextlib.contextmanager
    def question(
        self, answer_id: str, asked: ConsentAsked, conversation: str | None = None
    ) -> Generator[Question]:
        """A question that can be answered while the block runs, even before anybody waits for the
        reply. A reply remembered for *conversation* and this provider is given at once."""
        question = Question(self._lock, answer_id, asked, conversation)
        with self._lock:
            if answer_id in self._kept_local:
                question.decide(False)
            elif (known := self._remembered_reply(question)) is not None:
                question.decide(known)
            elif self._closed or len(self._questions) >= MAX_PENDING or asked.id in self._questions:
                question.decide(None)
            else:
                self._questions[asked.id] = question
        try:
            yield question
        finally:
            with self._lock:
                self._close_question(question)

    def _remembered_reply(self, question: Question) -> bool | None:
        key = _memory(question)
        return None if key is None else self._remembered.get(key)

    def answer(self, consent_id: str, granted: bool, *, remember: bool = False) -> ConsentReply:
        """Reply to a question. *remember*: the reply holds for the rest of the conversation with
        this provider, if the conversation is known."""
        with self._lock:
            question = self._questions.get(consent_id)
            if question is None:
                return "already_decided" if consent_id in self._decided else "unknown"
            if not question.decide(granted):
                return "already_decided"
            if remember and (memory := _memory(question)):
                _keep(self._remembered, memory, granted, MAX_REMEMBERED)
            self._close_question(question)
            return "accepted"

    def pending(self, answer_id: str | None = None) -> list[PendingConsent]:
        """The open questions, or those of one answer, oldest first."""
        with self._lock:
            return [
                PendingConsent(answer_id=question.answer_id, asked=question.asked)
                for question in self._questions.values()
                if answer_id in (None, question.answer_id)
            ]

    def forget(self, conversation: str) -> None:
        """Forget the replies remembered for *conversation*."""
        with self._lock:
            for key in [key for key in self._remembered if key[0] == conversation]:
                del self._remembered[key]

    def keep_local(self, answer_id: str) -> None:
        """Keep this answer on the device from now on: the reply to its open question and to all
        later ones is no, and its requests to providers are cancelled."""
        with self._lock:
            _keep(self._kept_local, answer_id, None, MAX_KEPT_LOCAL)
            for question in list(self._questions.values()):
                if question.answer_id == answer_id:
                    question.decide(False)
                    self._close_question(question)
            requests = list(self._requests.get(answer_id, ()))
        for request in requests:
            request.cancel()

    def is_kept_local(self, answer_id: str) -> bool:
        with self._lock:
            return answer_id in self._kept_local

    @contextlib.contextmanager
    def revocable(self, answer_id: str, cancellation: Cancellation) -> Generator[None]:
        """While the block runs, keep_local() cancels a request to a provider by *cancellation*."""
        with self._lock:
            requests = self._requests.setdefault(answer_id, [])
            requests.append(cancellation)
            is_kept_local = answer_id in self._kept_local
        if is_kept_local:
            cancellation.cancel()
        try:
            yield
        finally:
            with self._lock:
                requests.remove(cancellation)
                if not requests:
                    self._requests.pop(answer_id, None)

    def close(self) -> None:
        """End all waiting without a yes; no later question is answered."""
        with self._lock:
            self._closed = True
            for question in list(self._questions.values()):
                self._close_question(question)

    def _close_question(self, question: Question) -> None:
        if self._questions.get(question.asked.id) is question:
            del self._questions[question.asked.id]
            _keep(self._decided, question.asked.id, None, MAX_DECIDED)
        question.decide(None)


def _memory(question: Question) -> tuple[str, str] | None:
    """The conversation and the provider that a remembered reply holds for."""
    if not question.conversation:
        return None
    target = question.asked.target
    return question.conversation, target.provider or target.model


def _bounded(timeout_s: float) -> float:
    return min(max(timeout_s, 0.0), MAX_WAIT_S) if math.isfinite(timeout_s) else MAX_WAIT_S


def _keep(store: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Store *value*; forget the oldest beyond *limit*."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > limit:
        store.popitem(last=False)
