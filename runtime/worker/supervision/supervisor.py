"""Keeps one worker alive: starts it, notices its death, and starts the next one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from spillover.runtime.alarms import Alarm, Alarms
from spillover.runtime.conversions.choice import EngineChoice
from spillover.runtime.engine import EngineStatus, ModelCard
from spillover.runtime.errors import (
    EngineClosed,
    EngineError,
    EngineHung,
    ModelError,
    SpilloverError,
    WorkerDied,
)
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker import protocol
from spillover.runtime.worker.exits import KILLED, describe_exit
from spillover.runtime.worker.supervision.device_watch import DeviceWatch
from spillover.runtime.worker.supervision.dispatcher import Dispatcher
from spillover.runtime.worker.supervision.heartbeat import Heartbeat
from spillover.runtime.worker.supervision.next_load import NextLoad
from spillover.runtime.worker.supervision.restarts import RestartPolicy
from spillover.runtime.worker.supervision.worker_process import WorkerProcess

STATUS_TIMEOUT_S = 3.0
"""A worker that does not report its status within this time hangs."""

_log = logging.getLogger(__name__)


class Supervisor:
    """The life of one model's worker: loading, deaths, restarts, pauses.

    Its dispatcher has the requests, and the state that they meet. One lock guards both; nothing
    waits for a worker while holding it.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        options: EngineOptions,
        choice: EngineChoice,
        most_bytes: int | None = None,
    ) -> None:
        self._path = path
        self._name = name
        self._options = options
        self._next = NextLoad(path, name, options, choice, most_bytes)
        self._changed = threading.Condition()
        self.dispatcher = Dispatcher(name, options, self._changed)
        self._detail = ""
        self._card: ModelCard | None = None
        self._restarts = RestartPolicy(options.max_restarts)
        self._device = DeviceWatch(name, options)
        self._why: str | None = None  # a worker is ended by us
        self._alarms = Alarms()  # one thread from the start: later the system may give none
        self._alarm: Alarm | None = None
        self._worker: WorkerProcess | None = None
        self._heartbeat: Heartbeat | None = None
        self._on_death: Callable[[], None] = lambda: None
        self._on_progress: Callable[[float], None] = lambda share: None
        self._on_shortage: Callable[[int], None] = lambda n_bytes: self.answer_shortage()
        try:
            with self._changed:
                self._launch()
        except SpilloverError:
            self._alarms.close()
            raise

    @property
    def card(self) -> ModelCard:
        if self._card is None:
            failure = self.dispatcher.failure
            raise failure or EngineError(f"{self._name} is still loading: wait for it")
        return self._card

    @property
    def worker_pid(self) -> int | None:
        return worker.pid if (worker := self._worker) else None

    def wait_ready(self, timeout_s: float) -> ModelCard:
        with self._changed:
            settled = self._changed.wait_for(
                lambda: self.dispatcher.state in ("ready", "failed", "closed"), timeout_s
            )
            if self.dispatcher.failure is not None:
                raise self.dispatcher.failure
            if not settled or self._card is None:
                raise EngineError(f"{self._name} was not ready after {timeout_s:g} s")
            return self._card

    def health(self) -> EngineStatus:
        with self._changed:
            n_restarts = self._restarts.n_restarts
            if self.dispatcher.state == "ready" and self.dispatcher.is_suspicious:
                detail = f"the worker of {self._name} does not answer"
                return EngineStatus(state="hung", n_restarts=n_restarts, detail=detail)
            return EngineStatus(
                state=self.dispatcher.state,
                n_restarts=n_restarts,
                power_saving=self._device.saves_because,
                detail=self._detail,
            )

    def status(self) -> EngineStatus:
        fixed = self.health()
        if fixed.state != "ready":
            return fixed
        try:
            answer = self.dispatcher.ask(lambda i: protocol.AskStatus(id=i), STATUS_TIMEOUT_S)
        except EngineHung as error:
            return msgspec.structs.replace(fixed, state="hung", detail=str(error))
        except EngineError:
            return fixed
        assert isinstance(answer, protocol.Status)
        return msgspec.structs.replace(
            fixed,
            slots=answer.slots,
            n_queued=answer.n_queued,
            n_background=answer.n_background,
            n_kv_used=answer.n_kv_used,
            prefixes=answer.prefixes,
        )

    def watch_deaths(self, callback: Callable[[], None]) -> None:
        """Call *callback* whenever a worker that was ready has died."""
        with self._changed:
            self._on_death = callback

    def watch_progress(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the share of the weights that a loading worker has read."""
        self._on_progress = callback

    def watch_shortages(self, callback: Callable[[int], None]) -> None:
        """Call *callback* with the bytes that the worker lacks; answer_shortage() must follow."""
        self._on_shortage = callback

    def answer_shortage(self) -> None:
        """What others could give back is free now."""
        self._send(protocol.MemoryAnswer())

    def give_back(self, n_bytes: int) -> None:
        """Let the worker drop so much of what can be made again."""
        self._send(protocol.GiveBack(n_bytes=n_bytes))

    def _send(self, command: protocol.Command) -> None:
        with self._changed:
            if self._worker is not None and self.dispatcher.state == "ready":
                self._worker.send(command)

    def _launch(self) -> None:
        """Start a worker; the lock is held."""
        try:
            self._set_alarm(self._options.load_timeout_s, self._on_load_timeout)
            self._worker = WorkerProcess(self._next.begin(), self._on_report, self._on_end)
        except (OSError, RuntimeError) as error:  # no memory, no descriptor, no thread is left
            how = f"cannot be started ({error})"
            if self.dispatcher.state == "restarting":
                self._start_again(how, has_died=False)
            else:
                self._fail(WorkerDied(f"the worker {how}"))
            return
        self._heartbeat = self._watch(self._worker)

    def _set_alarm(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call *callback*, under the lock, unless another alarm is set before; the lock is held.
        Raises RuntimeError where the system gives no thread, which can only be the first time."""
        self._stop_alarm()

        def ring() -> None:
            with self._changed:
                if self._alarm is alarm:
                    callback()

        alarm = self._alarm = self._alarms.after(delay_s, ring)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _on_load_timeout(self) -> None:
        if self.dispatcher.state in ("loading", "restarting") and self._worker is not None:
            limit_s = self._options.load_timeout_s
            message = f"{self._path} was not loaded after {limit_s:g} s: raise load_timeout_s"
            self._cannot_load(message)
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
            case protocol.Ready():
                self._on_ready(report)
            case protocol.Planned():
                self._next.note(report)
            case protocol.LoadProgress():
                self._next.note(report)
                self._on_progress(report.share)
            case protocol.LoadFailed() if report.shortage:
                self._next.refuse(report)
            case protocol.LoadFailed():
                with self._changed:
                    self._cannot_load(report.message)
            case protocol.MemoryShort():
                self._on_shortage(report.n_bytes)
            case _:
                self.dispatcher.receive(report)

    def _on_ready(self, report: protocol.Ready) -> None:
        with self._changed:
            if self._worker is None or self.dispatcher.state not in ("loading", "restarting"):
                return
            self._stop_alarm()
            if self.dispatcher.state == "restarting":
                _log.warning("a new worker of %s is ready: process %s", self._name, self.worker_pid)
            self._card = report.card
            self._next.settle(report.card, report.choice)
            assert self._heartbeat is not None, "each worker has one"
            self._heartbeat.loaded()
            if self._device.saves_because:
                self._worker.send(protocol.SavePower(is_on=True))
            self.dispatcher.serve(self._worker, self._heartbeat)
            self._changed.notify_all()

    def _watch(self, worker: WorkerProcess) -> Heartbeat:
        """Notice when *worker* hangs, while it loads and later."""
        timeout_s = self._options.hang_timeout_s

        def on_hang() -> None:
            with self._changed:
                if self._worker is worker:
                    self._why = f"hung (no sign of life for {timeout_s:g} s) and was ended"
                    worker.kill()

        heartbeat = Heartbeat(
            worker,
            timeout_s,
            self.dispatcher.has_work,
            on_hang,
            on_work=lambda: self._device.look_at_power(self._send),
            on_wake=lambda slept_s: self._wake(worker, slept_s),
        )
        try:
            heartbeat.start()
        except RuntimeError as error:  # the system gives no thread
            _log.warning("nobody notices when the worker of %s hangs: %s", self._name, error)
        return heartbeat

    def _wake(self, worker: WorkerProcess, slept_s: float) -> None:
        """The device has slept: its GPU may be gone, and what a worker had there with it. In the
        heartbeat's thread."""
        lost = self._device.gpus_lost(slept_s)
        with self._changed:
            is_used = self._card is not None and not self._card.device.startswith("CPU")
            if lost and is_used and self._worker is worker:
                self._why = f"lost its GPU while the device slept ({', '.join(lost)})"
                worker.kill()

    def _on_end(self, status: int) -> None:
        """In the reader thread, after the worker's last report."""
        with self._changed:
            self._worker = None
            if self._heartbeat is not None:
                self._heartbeat.stop()
            why, self._why = self._why, None
            how = why or describe_exit(status)
            was_loading = self.dispatcher.state in ("loading", "restarting")
            is_shortage = why is None and self._next.has_run_short(
                status, how, was_loading=was_loading
            )
            self.dispatcher.lose(how, blames=not (is_shortage and self._next.has_smaller))
            if is_shortage and was_loading:
                self._launch()
                return
            if was_loading and self._next.leaves_conversion(status):
                reason = f"the worker {how} while it loaded the file's conversion"
                self._leave_conversion(reason, is_final=False)
                return
            if self.dispatcher.state == "loading":
                if why is not None:  # it hung: another one may not
                    self._start_again(how)
                else:
                    self._after_death_at_load(status, how)
            if self.dispatcher.state != "restarting":
                return
            self._detail = f"the worker {how}"
            self._start_again(how)
            on_death = self._on_death
        on_death()

    def _leave_conversion(self, reason: str, *, is_final: bool) -> None:
        """The lock is held."""
        self._next.leave_conversion(reason, is_final=is_final)
        self._launch()

    def _after_death_at_load(self, status: int, how: str) -> None:
        if status == KILLED:  # somebody has ended it, which says nothing of the file
            self._start_again(how)
            return
        if self._next.leave_repacking(status):
            self._detail = (
                f"the worker {how} while loading; weight repacking (use_extra_bufts) is off now"
            )
            _log.warning("%s: %s", self._name, self._detail)
            self._launch()
            return
        self._fail(self._next.failure(how))

    def _start_again(self, how: str, *, has_died: bool = True) -> None:
        """Now, later, or after a pause in which nothing is served; the lock is held."""
        delay_s = self._restarts.next_delay_s(time.monotonic())
        if delay_s is None and has_died and self._next.may_leave_conversion:
            reason = f"the worker {how} too often with the file's conversion"
            self._leave_conversion(reason, is_final=True)
            return
        if delay_s is None:
            pause_s = self._restarts.next_pause_s()
            message = (
                f"the worker {how} too often: the next one starts {pause_s:g} s later; "
                "`spillover doctor` may tell the reason"
            )
            self._fail(WorkerDied(message, pause_s), pause_s)
            self._set_alarm(pause_s, self._relaunch)
            return
        line = "the worker of %s %s: a new one starts in %g s and goes on with %d requests"
        _log.warning(line, self._name, how, delay_s, self.dispatcher.n_open)
        if delay_s == 0:
            self._launch()
        else:
            self._set_alarm(delay_s, self._relaunch)

    def _relaunch(self) -> None:
        self.dispatcher.recover()
        self._launch()

    def _fail(self, failure: SpilloverError, pause_s: float = 0.0) -> None:
        """Nothing can be served, for *pause_s* seconds or for good; the lock is held."""
        self._stop_alarm()
        if self._card is not None and not isinstance(failure, EngineClosed):
            _log.error("%s serves no requests: %s", self._name, failure)
        self._detail = str(failure)
        self.dispatcher.fail(failure, pause_s)
        self._changed.notify_all()

    def close(self) -> None:
        """Returns when the worker has ended, also where others have closed it before."""
        with self._changed:
            # One that loads hears nothing until it is done, and has nothing to save.
            is_deaf = self.dispatcher.state != "ready" or self.dispatcher.is_suspicious
            if is_first := self.dispatcher.state != "closed":
                self._fail(EngineClosed(f"{self._name} was closed"))
            worker = self._worker
        self._alarms.close()
        if worker is not None:
            if is_first and is_deaf:
                worker.kill()
            worker.quit()
