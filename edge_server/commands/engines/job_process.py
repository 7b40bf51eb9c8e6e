"""Starts the process that converts and compares, and tells what came of it."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from spillover.edge_server.commands.engines.order import Order, Result, decode_result, encode
from spillover.edge_server.commands.output import print_note
from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.quantize.child import start_process
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.conversions.choice import EngineChoice, choose_engine
from spillover.runtime.conversions.record import MAX_DEATHS, SourceNote
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.errors import ModelError, shortage
from spillover.runtime.machine.memory import OomKills
from spillover.runtime.machine.system_files import SystemFiles
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.exits import KILLED, describe_exit

_JOB = "spillover.edge_server.commands.engines.job"
_END_TIMEOUT_S = 5.0
_NO_MEMORY = "memory ran out, and the system ended the process that converts"

_log = logging.getLogger(__name__)


class JobProcess:
    """A running job. Its owner calls end()."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._n_died = self._note.n_died if self._note else 0
        self._oom_kills = OomKills(SystemFiles())
        self.lacked_memory = False
        """The system has ended it because memory ran out; known after result()."""
        self._process = start_process(_JOB)
        assert self._process.stdin is not None
        with suppress(OSError):  # its end shows when the result is read
            self._process.stdin.write(encode(order))
            self._process.stdin.flush()

    @property
    def _note(self) -> SourceNote | None:
        return ConversionStore(self._order.options.cache_dir).note_of(self._order.path)

    @property
    def pid(self) -> int:
        return self._process.pid

    def result(self) -> Result:
        """Wait for the end of the work."""
        assert self._process.stdout is not None
        try:
            return decode_result(self._process.stdout.readline())
        except msgspec.DecodeError:
            status = self._process.wait()
        self.lacked_memory = status == KILLED and self._oom_kills.are_new
        if not self.lacked_memory:
            return Result(error=f"the process that converts {describe_exit(status)}")
        self._excuse()
        return Result(error=f"{_NO_MEMORY}: close other programs, or choose a smaller model")

    def ask_to_end(self) -> None:
        """Let it remove what is half written, and end. Any thread may call it."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> None:
        """The same; returns when it is gone."""
        self.ask_to_end()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._excuse()

    def _excuse(self) -> None:
        """The file is not to blame for a job that was killed here, or because memory ran out: it
        may be tried again."""
        note = self._note
        if note is not None and note.n_died > self._n_died:
            with suppress(OSError):
                store = ConversionStore(self._order.options.cache_dir)
                store.write_note(replace(note, n_died=self._n_died))

    def end(self) -> None:
        """Stop it, and read no more from it."""
        assert self._process.stdout is not None
        self.stop()
        self._process.stdout.close()


class LoadConversion:
    """The conversion of a GGUF file that only ONNX Runtime may serve, made while users wait for the
    model."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self._path, self._options = path, options
        self._n_without_memory = 0

    def is_needed(self) -> bool:
        """Whether only ONNX Runtime may serve the file, which has not been converted yet."""
        return _is_conversion_missing(choose_engine(self._path, self._options))

    def make(self, cancellation: Cancellation) -> None:
        """Convert the file if that is needed. Raises ModelError when that is not possible, was
        cancelled, or has taken more memory than there is MAX_DEATHS times."""
        path, options = self._path, self._options
        choice = choose_engine(path, options)
        if not _is_conversion_missing(choice):
            return
        if self._n_without_memory >= MAX_DEATHS:
            raise self._failure(f"{_NO_MEMORY} {MAX_DEATHS} times: the next start tries again")
        print_note(f"spillover: converting {path.name} for ONNX Runtime ({choice.reason}) …")
        try:
            job = JobProcess(Order(path=path, options=options, in_background=False))
        except OSError as error:  # no memory, no process is left
            raise self._failure(shortage(error) or str(error)) from error
        try:
            with cancellation.subscribed(partial(_stop_soon, job)):
                failure = job.result().error
        finally:
            job.end()
        if cancellation.cancelled:
            raise ModelError(f"the conversion of {path} was cancelled: it is made at the next load")
        self._n_without_memory += job.lacked_memory
        if not failure:
            return
        if choose_engine(path, options).conversion is None:
            remedy = "" if has_llama() else f"; for llama.cpp: {INSTALL_LLAMA}"
            raise self._failure(f"{failure}{remedy}")
        print_note(f"spillover: warning: the conversion was not compared with the file: {failure}")

    def _failure(self, why: str) -> ModelError:
        return ModelError(f"{self._path} cannot be converted for ONNX Runtime: {why}")


def _is_conversion_missing(choice: EngineChoice) -> bool:
    return choice.engine == "onnx" and choice.can_compare


def _stop_soon(job: JobProcess) -> None:
    """For a subscriber, who must be quick: the job may take seconds to end."""
    try:
        threading.Thread(target=job.stop, name="end of the conversion", daemon=True).start()
    except RuntimeError:  # the system gives no thread that could end it by force
        job.ask_to_end()


@contextmanager
def comparing_in_background(path: Path, options: EngineOptions) -> Generator[None]:
    """While the block runs, find out which engine should serve the GGUF file *path* from the next
    start on, unless that is known. A job that is not done at the end of the block ends with it.

    Conversions of files that were deleted go first."""
    ConversionStore(options.cache_dir).tidy()
    if not choose_engine(path, options).can_compare:
        yield
        return
    try:
        job = JobProcess(Order(path=path, options=options, in_background=True))
    except OSError as error:
        _not_compared(path, error)
        yield
        return
    ended = threading.Event()

    def tell() -> None:
        error = job.result().error
        if not ended.is_set():
            _log.info("%s", _told(path, options, error))

    try:
        threading.Thread(target=tell, name="engines", daemon=True).start()
    except RuntimeError as error:  # the system gives no thread
        job.end()
        _not_compared(path, error)
        yield
        return
    try:
        yield
    finally:
        ended.set()
        job.end()


def _not_compared(path: Path, error: Exception) -> None:
    _log.warning("%s is not compared with ONNX Runtime: %s", path.name, shortage(error) or error)


def _told(path: Path, options: EngineOptions, error: str) -> str:
    if error:
        return f"{path.name} stays with llama.cpp for now: {error}"
    choice = choose_engine(path, options)
    if choice.engine == "onnx":
        return f"{path.name} runs on ONNX Runtime from the next start on: {choice.reason}"
    return f"{path.name} stays with llama.cpp: {choice.reason}"
