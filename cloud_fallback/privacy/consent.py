"""Asks the user whether an answer may leave the device, and remembers the replies.

A question is answered once. Without a yes nothing leaves: not when nobody replies, when too many
questions are open, when the answer is cancelled, or when the program ends.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias, TypeVar

from msgspec import Struct

from spillover.cloud_fallback.events import ConsentAnswered, ConsentAsked, ExpectedCost
from spillover.cloud_fallback.privacy.standing import StandingConsents
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import WriterId
from spillover.runtime.request import GenerationRequest

ConsentReply: TypeAlias = Literal["accepted", "already_decided", "too_late", "unknown"]
"""What a user's yes or no led to; "too_late": nobody waits for it any more."""

ConsentScope: TypeAlias = Literal["once", "chat", "always"]
"""What a yes or no to a provider holds for: this answer, the rest of its conversation, or all
answers (a no for "always" is a never)."""

MAX_PENDING = 64
MAX_WAIT_S = 600.0
MAX_DECIDED = 1024
MAX_REMEMBERED = 256
MAX_KEPT_LOCAL = 4096

K = TypeVar("K")
V = TypeVar("V")


class Planned(Struct, frozen=True, kw_only=True):
    """What would be sent if the user said yes now."""

    request: GenerationRequest
    """Redacted."""
    redactions: int
    """How many private texts were taken out."""
    may_grow: bool = False
    """The local model still writes, and what it adds until the reply goes along."""


Plan: TypeAlias = Callable[[], Planned]
"""May be called from any thread. Raises as the request itself would be refused."""


class PendingConsent(Struct, frozen=True, kw_only=True):
    """An open question."""

    answer_id: str
    asked: ConsentAsked
    plan: Plan


class Asker(Struct, frozen=True, kw_only=True):
    """For whom a question is asked, as far as replies are remembered."""

    answer_id: str
    conversation: str | None = None
    owner: str = ""


class Question:
    """One question of one answer."""

    def __init__(self, lock: threading.Lock, asker: Asker, asked: ConsentAsked, plan: Plan) -> None:
        self._lock = lock
        self.asker = asker
        self.asked = asked
        self.plan = plan
        self.granted: bool | None = None
        self.decided = Cancellation()
        """Set when the user has replied, or nobody will."""
        self._until = time.monotonic() + _bounded(asked.timeout_s)

    @property
    def provider(self) -> str:
        target = self.asked.target
        return target.provider or target.model

    def decide(self, granted: bool | None) -> bool:
        """Whether this decision counts: only the first does. The caller holds the lock."""
        if self.decided.cancelled:
            return False
        self.granted = granted
        self.decided.cancel()
        return True

    def wait(self, cancellation: Cancellation | None = None) -> bool | None:
        """The user's reply; None without one: after the question's timeout, on *cancellation*, when
        the questions are closed, or when too many are open."""
        woken = threading.Event()
        with (
            self.decided.subscribed(woken.set),
            (cancellation or Cancellation()).subscribed(woken.set),
        ):
            woken.wait(max(self._until - time.monotonic(), 0.0))
        return self.expire()

    def expire(self) -> bool | None:
        """Wait no longer: the reply, if there was one."""
        with self._lock:
            # A reply that comes from here on is "too_late".
            self.decide(None)
            return self.granted


class Consents:
    """The questions and decisions of all answers. May be used from any thread."""

    def __init__(self, standing: StandingConsents | None = None) -> None:
        """*standing*: what holds for good; None: nothing is kept beyond this object."""
        self.standing = standing or StandingConsents(None)
        self._lock = threading.Lock()
        self._closed = False
        self._questions: dict[str, Question] = {}
        self._decided: OrderedDict[str, bool | None] = OrderedDict()
        self._remembered: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._kept_local: OrderedDict[str, None] = OrderedDict()
        self._requests: dict[str, list[Cancellation]] = {}

    @contextlib.contextmanager
    def question(self, asker: Asker, asked: ConsentAsked, plan: Plan) -> Generator[Question]:
        """A question that can be answered while the block runs, even before anybody waits for the
        reply. Ask known() before."""
        question = Question(self._lock, asker, asked, plan)
        with self._lock:
            if asker.answer_id in self._kept_local:
                question.decide(False)
            elif self._closed or len(self._questions) >= MAX_PENDING or asked.id in self._questions:
                question.decide(None)
            else:
                self._questions[asked.id] = question
        try:
            yield question
        finally:
            with self._lock:
                self._close_question(question)

    def known(self, asker: Asker, provider: str) -> bool | None:
        """What the user has said about all answers by *provider*, in this conversation or at
        all; None: nothing. A "never" holds in every conversation."""
        with self._lock:
            reply = self._remembered.get((asker.conversation or "", provider))
        standing = self.standing.find(asker.owner, provider)
        return standing if reply is None or standing is False else reply

    def has_refused(self, asker: Asker, reason: str) -> bool:
        """Whether the user has said no to *reason* earlier in the conversation."""
        with self._lock:
            return (asker.conversation or "", reason) in self._refused

    def answer(
        self, consent_id: str, granted: bool, *, scope: ConsentScope = "once"
    ) -> ConsentReply:
        """Reply to a question. *scope* "chat" has no effect if the conversation is not known."""
        with self._lock:
            question = self._questions.get(consent_id)
            if question is None and consent_id not in self._decided:
                return "unknown"
            if question is None or not question.decide(granted):
                earlier = self._decided[consent_id] if question is None else question.granted
                return "too_late" if earlier is None else "already_decided"
            self._remember(question, granted, scope)
            self._close_question(question)
        if scope == "always":
            self.standing.decide(question.asker.owner, question.provider, granted)
        return "accepted"

    def _remember(self, question: Question, granted: bool, scope: ConsentScope) -> None:
        conversation, reason = question.asker.conversation, question.asked.reason
        if not conversation:
            return
        if scope == "chat":  # "always" is kept by *standing* alone, where it can be forgotten
            memory = conversation, question.provider
            _keep(self._remembered, memory, granted, MAX_REMEMBERED)
        if not granted and reason != "user":  # who asks for the cloud is asked again
            _keep(self._refused, (conversation, reason), None, MAX_REMEMBERED)

    def pending(self, answer_id: str | None = None) -> list[PendingConsent]:
        """The open questions, or those of one answer, oldest first."""
        with self._lock:
            return [
                PendingConsent(
                    answer_id=question.asker.answer_id,
                    asked=question.asked,
                    plan=question.plan,
                )
                for question in self._questions.values()
                if answer_id in (None, question.asker.answer_id)
            ]

    def forget(self, conversation: str) -> None:
        """Forget the replies remembered for *conversation*."""
        with self._lock:
            for memory in (self._remembered, self._refused):
                for key in [key for key in memory if key[0] == conversation]:
                    del memory[key]

    def keep_local(self, answer_id: str) -> None:
        """Keep this answer on the device from now on: the reply to its open question and to all
        later ones is no, and its requests to providers are cancelled."""
        with self._lock:
            _keep(self._kept_local, answer_id, None, MAX_KEPT_LOCAL)
            for question in list(self._questions.values()):
                if question.asker.answer_id == answer_id:
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
            question.decide(None)
            _keep(self._decided, question.asked.id, question.granted, MAX_DECIDED)
        question.decide(None)


class Asking:
    """The questions of one answer, one at a time, each open while a writer goes on. For the thread
    that iterates the answer."""

    def __init__(self, consents: Consents, asker: Asker, timeout_s: float) -> None:
        self._consents = consents
        self._asker = asker
        self._timeout_s = timeout_s
        self._stack = contextlib.ExitStack()
        self.question: Question | None = None
        """The one that is open."""

    def known(self, provider: str) -> bool | None:
        """See Consents."""
        return self._consents.known(self._asker, provider)

    def has_refused(self, reason: str) -> bool:
        """See Consents."""
        return self._consents.has_refused(self._asker, reason)

    def open(
        self,
        target: WriterId,
        reason: str,
        planned: Planned,
        *,
        cost: ExpectedCost,
        plan: Plan | None = None,
    ) -> Question:
        """Ask whether *target* may get what is *planned*. *plan* looks again, where that may
        change."""
        assert self.question is None, "one question at a time"
        asked = ConsentAsked(
            id=secrets.token_hex(16),
            reason=reason,
            target=target,
            timeout_s=self._timeout_s,
            n_messages=len(planned.request.messages),
            redactions=planned.redactions,
            cost=cost,
            n_images=planned.request.n_images,
        )
        question = self._consents.question(self._asker, asked, plan or (lambda: planned))
        self.question = self._stack.enter_context(question)
        return self.question

    def close(self) -> ConsentAnswered | None:
        """End the question, with the reply or without; None: there was none."""
        question, self.question = self.question, None
        self._stack.close()
        if question is None:
            return None
        return ConsentAnswered(id=question.asked.id, granted=question.granted)


def _bounded(timeout_s: float) -> float:
    return min(max(timeout_s, 0.0), MAX_WAIT_S) if math.isfinite(timeout_s) else MAX_WAIT_S


def _keep(store: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Store *value*; forget the oldest beyond *limit*."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > limit:
        store.popitem(last=False)
