"""Gives requests and questions to the worker, and its answers to those who wait."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Literal

from spillover.runtime.embedding_request import EngineRequest
from spillover.runtime.errors import (
    DeadlyRequest,
    EngineBusy,
    EngineClosed,
    EngineError,
    EngineHung,
    SpilloverError,
    WorkerDied,
)
from spillover.runtime.events import EngineEvent, Finished
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.worker import protocol
from spillover.runtime.worker.rejection import error_of
from spillover.runtime.worker.supervision import heartbeat
from spillover.runtime.worker.supervision.suspects import Suspects, deadly
from spillover.runtime.worker.supervision.ticket import Ticket
from spillover.runtime.worker.supervision.worker_process import WorkerProcess

ASK_TIMEOUT_S = 30.0
"""A question that needs no decoding is answered within this."""

_log = logging.getLogger(__name__)


class Dispatcher:
    """Requests wait for a worker and go on in the next one when it dies; questions end with it.

    *lock* is the supervisor's, which holds it when it calls serve, lose, fail and recover: both
    states change together. It is reentrant; nothing waits for a worker while holding it.
    """

    def __init__(self, name: str, options: EngineOptions, lock: threading.Condition) -> None:
        self._name = name
        self._most_tickets = {
            False: options.max_queue + (options.n_parallel or 1),
            True: options.max_background,
        }
        """By whether they are of the background, which takes nobody's place."""
        self._lock = lock
        self._ids = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._abandoned: dict[int, tuple[Ticket, int]] = {}
        """Requests that nobody waits for, but their worker has not ended yet, with the number of
        choices that it still runs."""
        self._questions: dict[int, queue.SimpleQueue[protocol.Answer | None]] = {}
        self._suspects = Suspects()
        self._worker: WorkerProcess | None = None
        self._heartbeat: heartbeat.Heartbeat | None = None
        self.state: Literal["loading", "ready", "restarting", "failed", "closed"] = "loading"
        self.failure: SpilloverError | None = None
        self._recovers_at = 0.0

    def submit(self, request: EngineRequest, seed: int = 0) -> Ticket:
        """Give a request to the worker, now or as soon as it is ready."""
        if isinstance(request, GenerationRequest):
            request.refuse_background(self._most_tickets[True])
        ticket = Ticket(next(self._ids), request, seed)
        order = ticket.order()
        with self._lock:
            self._check_alive()
            self._suspects.check(ticket)
            if self.state != "ready" and not self._has_room_for(request):
                raise EngineBusy(
                    f"{self._name} is {self.state} and the queue is full: try again later", 5.0
                )
            self._tickets[ticket.id] = ticket
            self._send(ticket, order)
            return ticket

    def _has_room_for(self, request: EngineRequest) -> bool:
        """Whether it may wait for a worker; the lock is held."""
        kind = request.is_background
        n = sum(ticket.request.is_background == kind for ticket in self._tickets.values())
        return n < self._most_tickets[kind]

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a request; its stream ends with cancelled choices."""
        with self._lock:
            ticket.cancelled = True
            if ticket.sent and self._worker is not None:
                self._worker.send(protocol.Cancel(id=ticket.id))
                ticket.mailbox.put([])  # wakes the reader, which now waits with a limit
            else:
                ticket.mailbox.put(ticket.cancellation_events())

    def forget(self, ticket: Ticket) -> None:
        """The stream is closed; what still runs for it ends."""
        with self._lock:
            self._tickets.pop(ticket.id, None)
            if not (ticket.is_open or ticket.cancelled):
                self._suspects.clear(ticket)
            self._end_trial(ticket)
            if ticket.is_open and ticket.sent and self._worker is not None:
                self._worker.send(protocol.Cancel(id=ticket.id))
                self._abandoned[ticket.id] = ticket, ticket.n_open

    def abandon(self, ticket: Ticket) -> None:
        """End a cancelled request whose worker has not ended it: nobody waits for that."""
        with self._lock:
            if self._tickets.pop(ticket.id, None) and ticket.sent and ticket.is_open:
                self._abandoned[ticket.id] = ticket, ticket.n_open
            ticket.mailbox.put(ticket.cancellation_events())

    def ask(
        self, question: Callable[[int], protocol.Command], timeout_s: float = ASK_TIMEOUT_S
    ) -> protocol.Answer:
        """The worker's answer to a question that needs no decoding."""
        answers: queue.SimpleQueue[protocol.Answer | None] = queue.SimpleQueue()
        question_id = next(self._ids)
        frame = protocol.encode(question(question_id))
        with self._lock:
            self._check_alive()
            if self._worker is None:
                raise EngineError(f"{self._name} is {self.state}: try again")
            if self.is_suspicious:
                raise EngineHung(f"the worker of {self._name} does not answer")
            self._questions[question_id] = answers
            self._worker.send_frame(frame)
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            raise EngineHung(f"the worker of {self._name} does not answer") from None
        finally:
            self._questions.pop(question_id, None)
        if answer is None:
            raise EngineError(f"the worker of {self._name} ended before it answered")
        if isinstance(answer, protocol.Rejected):
            raise error_of(answer, self._name)
        return answer

    def _check_alive(self) -> None:
        """Raise why nothing is served; the lock is held."""
        if isinstance(self.failure, WorkerDied):
            left_s = self._recovers_at - time.monotonic()
            raise WorkerDied(str(self.failure), max(left_s, 1.0))
        if self.failure is not None:
            raise self.failure

    def _send(self, ticket: Ticket, order: bytes | None = None) -> None:
        """Give it to the worker, unless it is refused or has to wait; the lock is held."""
        if self._worker is None:
            return
        try:
            self._suspects.check(ticket)
        except DeadlyRequest as error:
            ticket.mailbox.put(error)
            return
        if self._suspects.may_run(ticket):
            ticket.sent = True
            self._worker.send_frame(order or ticket.order())

    def _send_waiting(self) -> None:
        """The background comes last. The lock is held."""
        waiting = [each for each in self._tickets.values() if each.is_open and not each.sent]
        for ticket in sorted(waiting, key=lambda each: each.request.is_background):
            self._send(ticket)

    def _end_trial(self, ticket: Ticket) -> None:
        """Let the next suspect run."""
        with self._lock:
            if self._suspects.on_trial is ticket:
                self._suspects.on_trial = None
                self._send_waiting()

    def serve(self, worker: WorkerProcess, pulse: heartbeat.Heartbeat) -> None:
        """A worker is ready: give it all that waits."""
        self._worker, self._heartbeat, self.state = worker, pulse, "ready"
        self._send_waiting()

    def lose(self, how: str, *, blames: bool = True) -> None:
        """The worker has ended: its questions, too. Its requests wait for the next one. *blames*:
        one of them may be the cause."""
        self._worker = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
        # Who is woken leaves at once.
        for answers in list(self._questions.values()):
            answers.put(None)
        if self.state == "ready":
            self.state = "restarting"
        running = self.running()
        abandoned = [ticket for ticket, _ in self._abandoned.values()]
        guilty = self._suspects.died([*running, *abandoned] if blames else [])
        self._abandoned.clear()
        for ticket in running:
            ticket.sent = False
            ticket.n_deaths += 1
            if ticket.cancelled:
                ticket.mailbox.put(ticket.cancellation_events())
            elif ticket in guilty:
                _log.warning("a request of %s is refused: the worker %s twice", self._name, how)
                ticket.mailbox.put(deadly())

    def fail(self, failure: SpilloverError, pause_s: float) -> None:
        """Nothing can be served, for *pause_s* seconds or for good."""
        self.failure = failure
        self._recovers_at = time.monotonic() + pause_s
        self.state = "closed" if isinstance(failure, EngineClosed) else "failed"
        if self._heartbeat is not None:
            self._heartbeat.stop()
        for ticket in self._tickets.values():
            ticket.mailbox.put(failure)
        self._tickets.clear()
        self._abandoned.clear()

    def recover(self) -> None:
        """Requests may wait for a worker again."""
        self.failure, self.state = None, "restarting"

    @property
    def n_open(self) -> int:
        return sum(ticket.is_open for ticket in self._tickets.values())

    def running(self) -> list[Ticket]:
        """The requests that the worker has and somebody waits for."""
        return [ticket for ticket in list(self._tickets.values()) if ticket.sent and ticket.is_open]

    def has_work(self) -> bool:
        """Whether the worker has requests, even if nobody waits for them."""
        return bool(self._abandoned or self.running())

    @property
    def is_suspicious(self) -> bool:
        """Whether the worker may hang."""
        return self._heartbeat is not None and self._heartbeat.is_suspicious

    def receive(self, report: protocol.Events | protocol.Answer) -> None:
        """Give what the worker says to whoever waits for it; in the reader thread."""
        match report:
            case protocol.Events():
                self._deliver(report.events)
            case protocol.Status(id=heartbeat.PING_ID) if self._heartbeat is not None:
                self._heartbeat.heard(report)
            case protocol.Rejected() if report.id in self._tickets or report.id in self._abandoned:
                self._refuse(report)
            case _ if answers := self._questions.get(report.id):
                answers.put(report)

    def _refuse(self, report: protocol.Rejected) -> None:
        with self._lock:
            self._abandoned.pop(report.id, None)
            if ticket := self._tickets.pop(report.id, None):
                ticket.mailbox.put(error_of(report, self._name))

    def _deliver(self, events: list[tuple[int, EngineEvent]]) -> None:
        mails: dict[Ticket, list[EngineEvent]] = {}
        with self._lock:  # abandon() must not come between what is noted and what is told
            for ticket_id, event in events:
                if ticket := self._tickets.get(ticket_id):
                    mails.setdefault(ticket, []).append(ticket.record(event))
                    if ticket is self._suspects.on_trial and self._suspects.is_acquitted(event):
                        self._end_trial(ticket)
                elif isinstance(event, Finished) and ticket_id in self._abandoned:
                    self._choice_ended(ticket_id)
            for ticket, mail in mails.items():
                ticket.mailbox.put(mail)

    def _choice_ended(self, ticket_id: int) -> None:
        """The worker has ended a choice of an abandoned request; the lock is held."""
        ticket, n_left = self._abandoned.pop(ticket_id)
        if n_left > 1:
            self._abandoned[ticket_id] = ticket, n_left - 1
