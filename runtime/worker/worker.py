"""The worker process: owns one loaded model.

Its main thread loads the model and is the loop, which alone touches the model's context. A second
thread, the intake, reads commands, renders templates and tokenizes. A third one waits for the
parent's death. All of them block; none polls.

Loading and self-test run in the loop's thread for a reason: OpenMP keeps a team of threads for each
thread that computes, and once two teams are more than the cores, none of them spins between two
parts of a computation any more, which costs a third of the speed.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from spillover.runtime.embedding.embedder import Embedder
from spillover.runtime.embedding.queue import EmbeddingQueue
from spillover.runtime.errors import ModelError, shortage_in
from spillover.runtime.events import EngineEvent
from spillover.runtime.files.json_file import MeasurementStore
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.fit.planner import Planner
from spillover.runtime.kv_cache.cache import KvCacheOptions
from spillover.runtime.kv_cache.memory import saved_prefix_bytes
from spillover.runtime.kv_cache.prefix_disk import PrefixDiskOptions
from spillover.runtime.options import EngineOptions
from spillover.runtime.scheduling.embedding.loop import EmbeddingLoop
from spillover.runtime.scheduling.pace.cost_measurement import (
    NOTHING_TO_MEASURE,
    CostMeasurement,
    SavedCostTables,
)
from spillover.runtime.scheduling.scheduler import Scheduler, SchedulerOptions
from spillover.runtime.structured_output.last_use import LastUse
from spillover.runtime.worker import protocol
from spillover.runtime.worker.constraint_compiler import ConstraintCompiler
from spillover.runtime.worker.embedding_intake import EmbeddingIntake
from spillover.runtime.worker.exits import (
    EXIT_PARENT_DIED,
    be_first_to_go,
    exit_on_error,
    exit_with_parent,
)
from spillover.runtime.worker.intake import Intake
from spillover.runtime.worker.loading import LoadedEmbedder, LoadedModel, load
from spillover.runtime.worker.rejection import rejected
from spillover.runtime.worker.stderr_log import StderrLog

SWITCH_INTERVAL_S = 0.0005
"""A tenth of Python's own. The thread that decodes asks for the interpreter's lock after each call
of a library, some dozens of times per token, and waits as long as this for a thread that computes.
"""


class FrameWriter:
    """Writes frames to the parent from any thread, one at a time."""

    def __init__(self, fd: int) -> None:
        self._stream = io.FileIO(fd, "wb", closefd=False)
        self._lock = threading.Lock()

    def send(self, report: protocol.Report) -> None:
        frame = protocol.encode(report)
        with self._lock:
            try:
                written = self._stream.write(frame) or 0
                while written < len(frame):
                    written += self._stream.write(frame[written:]) or 0
            except OSError:
                os._exit(EXIT_PARENT_DIED)

    def events(self, events: list[tuple[int, EngineEvent]]) -> None:
        self.send(protocol.Events(events=events))


def main() -> None:
    """Serve one parent over the standard streams until it sends Quit or ends."""
    commands, writer = _take_streams()
    logging.basicConfig(level=logging.WARNING, handlers=[StderrLog()])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    exit_with_parent()
    body = protocol.read_frame(commands)
    if body is None:
        return
    order = protocol.decode_load(body)
    be_first_to_go()
    planner = Planner(
        order.options,
        failed=order.failed,
        served=order.served,
        most_bytes=order.most_bytes,
        tell=lambda fit, stage, free: writer.send(
            protocol.Planned(fit=fit, stage=stage, free=free)
        ),
    )
    try:
        progress = _Progress(writer.send)
        model = load(
            Path(order.path), order.name, order.options, order.choice, progress.tell, planner
        )
        if isinstance(model, LoadedModel):
            planner.proved()
    except ModelError as error:
        how = shortage_in(str(error)) if planner.is_trying else ""
        writer.send(protocol.LoadFailed(message=str(error), shortage=how))
        return
    if isinstance(model, LoadedEmbedder):
        _serve_embedder(model, order.options, commands, writer)
    else:
        _serve(model, order.options, planner.spare_bytes, commands, writer)
    logging.shutdown()
    # Skip the rest of the interpreter's shutdown, which is slow: nothing is left to write.
    os._exit(0)


class _Progress:
    """Reports how much of the weights has been read, a hundred times at most."""

    def __init__(self, send: Callable[[protocol.Report], None]) -> None:
        self._send = send
        self._percent = 0

    def tell(self, share: float) -> None:
        percent = int(100 * share)
        if percent > self._percent:
            self._percent = percent
            self._send(protocol.LoadProgress(share=percent / 100))


def _take_streams() -> tuple[io.BufferedReader, FrameWriter]:
    """The two pipes to the parent, protected from libraries that print to stdout."""
    commands, reports = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    return io.BufferedReader(io.FileIO(commands, "rb"), 1 << 16), FrameWriter(reports)


def _embedding_queue(
    embedder: Embedder, options: EngineOptions, writer: FrameWriter
) -> EmbeddingQueue:
    return EmbeddingQueue(
        embedder,
        writer.events,
        lambda job_id, error: writer.send(rejected(job_id, error)),
        time.monotonic,
        max_queue=options.max_queue,
        one_by_one=options.deterministic,
    )


def _serve_embedder(
    model: LoadedEmbedder,
    options: EngineOptions,
    commands: io.BufferedReader,
    writer: FrameWriter,
) -> None:
    loop = EmbeddingLoop(_embedding_queue(model.embedder, options, writer))
    writer.send(protocol.Ready(card=model.card, choice=model.choice))
    intake = EmbeddingIntake(model, loop, writer.send)
    _start_intake(commands, intake.take, loop.stop)
    exit_on_error(loop.run)
    model.embedder.close()


def _serve(
    model: LoadedModel,
    options: EngineOptions,
    spare_bytes: int,
    commands: io.BufferedReader,
    writer: FrameWriter,
) -> None:
    info = model.backend.info
    store = MeasurementStore(options.cache_dir, model.fingerprint, SavedCostTables)
    saved = NOTHING_TO_MEASURE if options.deterministic else store.read()
    measurement = CostMeasurement(model.backend, saved, store.write)
    embedder = model.embedder
    queue = None if embedder is None else _embedding_queue(embedder, options, writer)
    scheduler = Scheduler(
        model.backend,
        SchedulerOptions(
            n_ctx=model.card.n_ctx,
            n_parallel=model.card.n_parallel,
            max_queue=options.max_queue,
            max_background=options.max_background,
            max_gap_s=options.max_gap_ms / 1e3,
            kept=KvCacheOptions(
                n_kept=options.n_prefix_cached,
                saved_bytes=saved_prefix_bytes(options, info, spare_bytes),
                disk=_prefix_disk(model, options),
            ),
            has_fixed_slices=options.deterministic,
            speculates=options.speculation == "auto" and info.can_check,
        ),
        writer.events,
        measurement,
        embeddings=queue,
        ask_for_memory=lambda n_bytes: writer.send(protocol.MemoryShort(n_bytes=n_bytes)),
    )
    writer.send(protocol.Ready(card=model.card, choice=model.choice))
    last_use = LastUse(options.cache_dir, model.fingerprint)
    compiler = ConstraintCompiler(model.backend, model.template.tag_pairs, last_use)
    intake = Intake(model, scheduler, writer.send, compiler)
    compiler.prepare()
    _start_intake(commands, intake.take, scheduler.stop)
    exit_on_error(scheduler.run)
    if measurement.is_sound and not options.deterministic:
        store.write(measurement.save())
    if embedder is not None:
        embedder.close()
    model.backend.close()


def _prefix_disk(model: LoadedModel, options: EngineOptions) -> PrefixDiskOptions | None:
    """What is kept on disk of the states of finished conversations; None: nothing."""
    saver = model.backend.saver
    if options.prefix_disk == "off" or not options.prefix_disk_mb or saver is None:
        return None
    try:
        digest = ModelDigest(model.weights, options.cache_dir)
    except OSError:  # the file was removed meanwhile
        return None
    return PrefixDiskOptions(
        cache_dir=options.cache_dir,
        digest=digest,
        facts=(model.backend.info.library, saver.layout),
        max_bytes=int(options.prefix_disk_mb * 2**20),
        keeps=options.prefix_disk,
    )


def _start_intake(
    commands: io.BufferedReader,
    take: Callable[[protocol.Command], None],
    stop: Callable[[], None],
) -> None:
    """Serve commands in a thread until Quit or the end of the pipe; then the loop is stopped."""

    def read() -> None:
        while (body := protocol.read_frame(commands)) is not None:
            command = protocol.decode_command(body)
            if isinstance(command, protocol.Quit):
                break
            take(command)
        stop()

    threading.Thread(target=exit_on_error, args=(read,), name="intake").start()
