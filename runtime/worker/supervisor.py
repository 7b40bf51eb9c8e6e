"""Keeps one worker alive and passes its requests to the next one when it dies."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from spillover.runtime.engine import EngineStatus, ModelCard
from spillover.runtime.errors import (
    DeadlyRequest,
    EngineBusy,
    EngineClosed,
    EngineError,
    EngineHung,
    ModelError,
    SpilloverError,
    WorkerDied,
)
from spillover.runtime.events import EngineEvent
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.worker import heartbeat, protocol
from spillover.runtime.worker.heartbeat import Heartbeat
from spillover.runtime.worker.rejection import error_of
from spillover.runtime.worker.restarts import RestartPolicy
from spillover.runtime.worker.suspects import Suspects, deadly
from spillover.runtime.worker.ticket import Ticket
from spillover.runtime.worker.worker_process import WorkerProcess, describe_exit

ASK_TIMEOUT_S = 30.0
"""A question that needs no decoding is answered within this."""

STATUS_TIMEOUT_S = 5.0
"""A worker that does not report its status within this time hangs."""

_log = logging.getLogger(__name__)

State: TypeAlias = Literal["loading", "ready", "restarting", "failed", "closed"]
HealthState: TypeAlias = State | Literal["hung"]


class Supervisor:
    """One model's worker: loading, questions, requests in flight, deaths and restarts.

    The lock guards everything below it; nothing waits for a worker while holding it.
    """

    def __init__(self, path: Path, name: str, options: EngineOptions) -> None:
        self._path = path
        self._name = name
        self._options = options
        self._changed = threading.Condition()
        self._state: State = "loading"
        self._failure: SpilloverError | None = None
        self._detail = ""
        self._card: ModelCard | None = None
        self._tickets: dict[int, Ticket] = {}
        self._questions: dict[int, queue.SimpleQueue[protocol.Answer | None]] = {}
        self._ids = itertools.count(1)
        self._restarts = RestartPolicy(options.max_restarts)
        self._suspects = Suspects()
        self._recovers_at = 0.0
        self._why: str | None = None  # a worker is ended by us
        self._heartbeat: Heartbeat | None = None
        self._timer: threading.Timer | None = None
        self._worker: WorkerProcess | None = None
        self._on_death: Callable[[], None] = _nothing
        with self._changed:
            self._launch()

    # --- state ------------------------------------------------------------------------------

    @property
    def card(self) -> ModelCard:
        if self._card is None:
            raise self._failure or EngineError(f"{self._name} is still loading: wait for it")
        return self._card

    @property
    def worker_pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker else None

    def wait_ready(self, timeout_s: float) -> ModelCard:
        with self._changed:
            settled = self._changed.wait_for(
                lambda: self._state in ("ready", "failed", "closed"), timeout_s
            )
            if self._failure is not None:
                raise self._failure
            if not settled or self._card is None:
                raise EngineError(f"{self._name} was not ready after {timeout_s:g} s")
            return self._card

    def health(self) -> EngineStatus:
        with self._changed:
            state: HealthState = self._state
            detail = self._detail
            if state == "ready" and self._is_suspicious:
                state, detail = "hung", f"the worker of {self._name} does not answer"
        return EngineStatus(state=state, n_restarts=self._restarts.n_restarts, detail=detail)

    def status(self) -> EngineStatus:
        fixed = self.health()
        if fixed.state != "ready":
            return fixed
        try:
            answer = self.ask(lambda i: protocol.AskStatus(id=i), STATUS_TIMEOUT_S)
        except EngineHung as error:
            return msgspec.structs.replace(fixed, state="hung", detail=str(error))
        except EngineError:
            return fixed
        assert isinstance(answer, protocol.Status)
        return msgspec.structs.replace(
            fixed, slots=answer.slots, n_queued=answer.n_queued, n_kv_used=answer.n_kv_used
        )

    def watch_deaths(self, callback: Callable[[], None]) -> None:
        """Call *callback* whenever a worker that was ready has died."""
        with self._changed:
            self._on_death = callback

    # --- requests ---------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, seed: int) -> Ticket:
        """Give a request to the worker, now or as soon as it is ready."""
        ticket = Ticket(next(self._ids), request, seed)
        order = ticket.order()
        with self._changed:
            self._check_alive()
            self._suspects.check(ticket)
            if self._state != "ready" and len(self._tickets) >= self._most_tickets:
                raise EngineBusy(
                    f"{self._name} is {self._state} and the queue is full: try again later", 5.0
                )
            self._tickets[ticket.id] = ticket
            if self._state == "ready":
                self._send_ticket(ticket, order)
            return ticket

    def _check_alive(self) -> None:
        """Raise why nothing is served; the lock is held."""
        if isinstance(self._failure, WorkerDied):
            left_s = self._recovers_at - time.monotonic()
            raise WorkerDied(str(self._failure), max(left_s, 1.0))
        if self._failure is not None:
            raise self._failure

    @property
    def _most_tickets(self) -> int:
        return self._options.max_queue + (self._options.n_parallel or 1)

    def _send_ticket(self, ticket: Ticket, order: bytes | None = None) -> None:
        """Give it to the worker, unless it is refused or has to wait; the lock is held."""
        assert self._worker is not None
        try:
            self._suspects.check(ticket)
        except DeadlyRequest as error:
            ticket.mailbox.put(error)
            return
        if self._suspects.may_run(ticket):
            ticket.sent = True
            self._worker.send_frame(order or ticket.order())

    def _end_trial(self, ticket: Ticket) -> None:
        """Let the next suspect run."""
        with self._changed:
            if self._suspects.on_trial is ticket:
                self._suspects.on_trial = None
                self._send_waiting()

    def _send_waiting(self) -> None:
        """The lock is held."""
        if self._state == "ready" and self._worker is not None:
            for ticket in list(self._tickets.values()):
                if ticket.is_open and not ticket.sent:
                    self._send_ticket(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a request; its stream ends with cancelled choices."""
        with self._changed:
            ticket.cancelled = True
            if ticket.sent and self._worker is not None:
                self._worker.send(protocol.Cancel(id=ticket.id))
                ticket.mailbox.put([])  # wakes the reader, which now waits with a limit
            else:
                ticket.mailbox.put(ticket.cancellation_events())

    def forget(self, ticket: Ticket) -> None:
        """The stream is closed; what still runs for it ends."""
        with self._changed:
            self._tickets.pop(ticket.id, None)
            if not (ticket.is_open or ticket.cancelled):
                self._suspects.clear(ticket)
            self._end_trial(ticket)
            if ticket.is_open and ticket.sent and self._worker is not None:
                self._worker.send(protocol.Cancel(id=ticket.id))

    def kill_hung_worker(self, ticket: Ticket) -> None:
        """Kill a worker that did not react to a cancel, and end the request."""
        with self._changed:
            if self._worker is not None:
                _log.warning("the worker of %s hangs and is ended", self._name)
                self._worker.kill()
            ticket.mailbox.put(ticket.cancellation_events())

    def ask(
        self, question: Callable[[int], protocol.Command], timeout_s: float = ASK_TIMEOUT_S
    ) -> protocol.Answer:
        """The worker's answer to a question that needs no decoding."""
        answers: queue.SimpleQueue[protocol.Answer | None] = queue.SimpleQueue()
        question_id = next(self._ids)
        frame = protocol.encode(question(question_id))
        with self._changed:
            self._check_alive()
            if self._state != "ready" or self._worker is None:
                raise EngineError(f"{self._name} is {self._state}: try again")
            if self._is_suspicious:
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

    # --- the worker's life ------------------------------------------------------------------

    def _launch(self) -> None:
        """Start a worker; the lock is held."""
        order = protocol.Load(path=str(self._path), name=self._name, options=self._options)
        try:
            self._worker = WorkerProcess(order, self._on_report, self._on_end)
        except (OSError, RuntimeError) as error:  # no memory, no descriptor, no thread is left
            how = f"cannot be started ({error})"
            if self._state == "restarting":
                self._start_again(how)
            else:
                self._fail(WorkerDied(f"the worker {how}"))
            return
        self._set_timer(self._options.load_timeout_s, self._on_load_timeout)

    def _set_timer(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = threading.Timer(delay_s, callback)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_load_timeout(self) -> None:
        with self._changed:
            if self._state not in ("loading", "restarting"):
                return
            limit_s = self._options.load_timeout_s
            self._cannot_load(
                f"{self._path} was not loaded after {limit_s:g} s: raise load_timeout_s"
            )
            if self._worker is not None:
                self._worker.kill()

    def _cannot_load(self, message: str) -> None:
        """The lock is held."""
        if self._card is None:
            self._fail(ModelError(message))
        else:  # it could be loaded before: when the worker has ended, another one tries again
            self._why = f"could not load the model again ({message})"

    def _on_report(self, report: protocol.Report) -> None:
        """In the reader thread."""
        match report:
            case protocol.Events():
                self._deliver(report.events)
            case protocol.Ready():
                self._on_ready(report.card)
            case protocol.LoadFailed():
                with self._changed:
                    self._cannot_load(report.message)
            case protocol.Rejected():
                self._on_rejected(report)
            case protocol.Status(id=heartbeat.PING_ID):
                if self._heartbeat is not None:
                    self._heartbeat.heard(report)
            case protocol.Tokens() | protocol.Bytes() | protocol.Status():
                self._on_answer(report.id, report)

    def _deliver(self, events: list[tuple[int, EngineEvent]]) -> None:
        mails: dict[int, list[EngineEvent]] = {}
        for ticket_id, event in events:
            ticket = self._tickets.get(ticket_id)
            if ticket is not None:
                mails.setdefault(ticket_id, []).append(ticket.record(event))
                if ticket is self._suspects.on_trial and self._suspects.is_acquitted(event):
                    self._end_trial(ticket)
        for ticket_id, mail in mails.items():
            ticket = self._tickets.get(ticket_id)
            if ticket is not None:
                ticket.mailbox.put(mail)

    def _on_ready(self, card: ModelCard) -> None:
        with self._changed:
            if self._state not in ("loading", "restarting"):
                return
            self._stop_timer()
            if self._state == "restarting":
                pid = self.worker_pid
                _log.warning("a new worker of %s is ready: process %s", self._name, pid)
            self._card = card
            self._state = "ready"
            self._watch()
            self._send_waiting()
            self._changed.notify_all()

    def _watch(self) -> None:
        """Notice when the worker hangs; the lock is held."""
        worker = self._worker
        assert worker is not None
        timeout_s = self._options.hang_timeout_s
        self._heartbeat = Heartbeat(
            worker, timeout_s, self._has_work, lambda: self._on_hang(worker, timeout_s)
        )
        try:
            self._heartbeat.start()
        except RuntimeError as error:  # the system gives no thread
            _log.warning("nobody notices when the worker of %s hangs: %s", self._name, error)

    def _has_work(self) -> bool:
        return any(ticket.sent and ticket.is_open for ticket in list(self._tickets.values()))

    @property
    def _is_suspicious(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.is_suspicious

    def _on_hang(self, worker: WorkerProcess, timeout_s: float) -> None:
        with self._changed:
            if self._worker is worker:
                self._why = f"hung (no sign of life for {timeout_s:g} s) and was ended"
                worker.kill()

    def _on_rejected(self, report: protocol.Rejected) -> None:
        ticket = self._tickets.pop(report.id, None)
        if ticket is not None:
            ticket.mailbox.put(error_of(report, self._name))
        else:
            self._on_answer(report.id, report)

    def _on_answer(self, question_id: int, answer: protocol.Answer) -> None:
        answers = self._questions.get(question_id)
        if answers is not None:
            answers.put(answer)

    def _on_end(self, status: int) -> None:
        """In the reader thread, after the worker's last report."""
        with self._changed:
            self._worker = None
            if self._heartbeat is not None:
                self._heartbeat.stop()
                self._heartbeat = None
            how, self._why = self._why or describe_exit(status), None
            # Who is woken leaves at once.
            for answers in list(self._questions.values()):
                answers.put(None)
            if self._state == "closed" or self._failure is not None:
                return
            if self._state == "loading":
                self._after_death_at_load(status)
                return
            self._after_death(how)
            on_death = self._on_death
        on_death()

    def _after_death_at_load(self, status: int) -> None:
        how = describe_exit(status)
        if status < 0 and self._options.use_extra_bufts:
            # Weight repacking uses instructions that a miscompiled library crashes on.
            self._options = msgspec.structs.replace(self._options, use_extra_bufts=False)
            self._detail = (
                f"the worker {how} while loading; weight repacking (use_extra_bufts) is off now"
            )
            _log.warning("%s: %s", self._name, self._detail)
            self._launch()
            return
        self._fail(
            ModelError(
                f"the worker {how} while loading {self._path}: the file may be damaged, memory "
                "too small, or the library broken: run `spillover doctor`"
            )
        )

    def _after_death(self, how: str) -> None:
        self._detail = f"the worker {how}"
        running = [ticket for ticket in self._tickets.values() if ticket.sent and ticket.is_open]
        guilty = self._suspects.died(running)
        for ticket in running:
            ticket.sent = False
            ticket.n_deaths += 1
            if ticket.cancelled:
                ticket.mailbox.put(ticket.cancellation_events())
            elif ticket in guilty:
                _log.warning("a request of %s is refused: the worker %s twice", self._name, how)
                ticket.mailbox.put(deadly())
        self._start_again(how)

    def _start_again(self, how: str) -> None:
        """Now or later; the lock is held."""
        delay_s = self._restarts.next_delay_s(time.monotonic())
        if delay_s is None:
            self._pause(how)
            return
        self._state = "restarting"
        n_kept = sum(ticket.is_open for ticket in self._tickets.values())
        _log.warning(
            "the worker of %s %s: a new one starts in %g s and goes on with %d requests",
            self._name,
            how,
            delay_s,
            n_kept,
        )
        if delay_s == 0:
            self._launch()
        else:
            self._set_timer(delay_s, self._relaunch)

    def _relaunch(self) -> None:
        with self._changed:
            if self._state == "restarting":
                self._launch()

    def _pause(self, how: str) -> None:
        """Serve nothing for a while, then try again; the lock is held."""
        pause_s = self._restarts.next_pause_s()
        message = (
            f"the worker {how} too often: the next one starts {pause_s:g} s later; "
            "`spillover doctor` may tell the reason"
        )
        self._recovers_at = time.monotonic() + pause_s
        self._fail(WorkerDied(message, pause_s))
        self._set_timer(pause_s, self._recover)

    def _recover(self) -> None:
        with self._changed:
            if self._state == "failed":
                self._failure = None
                self._state = "restarting"
                self._launch()

    def _fail(self, failure: SpilloverError) -> None:
        """Nothing can be served; the lock is held."""
        self._stop_timer()
        if self._card is not None and not isinstance(failure, EngineClosed):
            _log.error("%s serves no requests: %s", self._name, failure)
        self._failure = failure
        self._state = "closed" if isinstance(failure, EngineClosed) else "failed"
        self._detail = str(failure)
        for ticket in self._tickets.values():
            ticket.mailbox.put(failure)
        self._tickets.clear()
        self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self._state == "closed":
                return
            self._fail(EngineClosed(f"{self._name} was closed"))
            worker = self._worker
            if self._heartbeat is not None:
                self._heartbeat.stop()
        if worker is not None:
            worker.quit()


def _nothing() -> None:
    """The default of watch_deaths: do nothing."""
