"""A graph that is ready to run, on the CPU or on an accelerator that has proved itself.

That a wheel lists an accelerator means little: its driver may be missing, it may lack code for this
very chip, or compute something else. So it must show the CPU's logits, in less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from msgspec import Struct

from spillover.runtime.backend import DecodeFailed, Logits, Rows
from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.accelerators import Accelerator
from spillover.runtime.onnx.device_runner import DeviceRunner
from spillover.runtime.onnx.divergence import divergence
from spillover.runtime.onnx.exact_runner import ExactRunner
from spillover.runtime.onnx.graph_layout import GraphLayout
from spillover.runtime.onnx.graph_prepare import Prepared, prepare
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.runner import Runner
from spillover.runtime.onnx.session import OnnxSession, session_options
from spillover.runtime.onnx.slot_runner import SlotRunner
from spillover.runtime.onnx.spinning import is_spinning_faster
from spillover.runtime.onnx.stepwise_runner import StepwiseRunner, reads_slices

FIRST_WITH_QUERY_LENGTHS = (1, 32)

_N_READ, _N_DECODED = 16, 8
_MOST_DIVERGENCE = 0.05
"""Between the distributions of CPU and accelerator, in nats; fp16 arithmetic makes about 0.001."""


_STEPWISE = (
    "the graph was exported for one new token at a time: prompts are read slowly, token by token; "
    "export the model with a newer program"
)


class Needs(Struct, frozen=True, kw_only=True):
    """What a runner has to hold, and the threads it gets."""

    n_seq: int
    n_ctx: int
    n_vocab: int
    n_threads: int


class Execution(Struct, frozen=True, kw_only=True):
    """A session with its KV cache; *device* is for people."""

    device: str
    session: OnnxSession
    runner: Runner
    layout: GraphLayout
    notes: tuple[str, ...] = ()
    """What the user should know."""


def on_cpu(graph: Prepared, needs: Needs) -> Execution:
    """Uses the graph up. Raises ModelError."""
    layout = graph.layout
    session = _session(graph, needs, ("CPUExecutionProvider",))
    runner = _host_runner(session, layout, needs)
    notes: tuple[str, ...] = ()
    session.arm()
    if layout.attention == "growing" and not reads_slices(
        runner, needs.n_vocab, session.dtype(layout.logits)
    ):
        runner, notes = StepwiseRunner(runner), (_STEPWISE,)
    return Execution(device="CPU", session=session, runner=runner, layout=layout, notes=notes)


def on_accelerator(accelerator: Accelerator, path: Path, needs: Needs) -> Execution:
    """Raises ModelError when the accelerator cannot be had."""
    graph = prepare(path, runtime_version=runtime_version(), on_cpu=False, rewrite=False)
    layout = graph.layout
    session = _session(graph, needs, (*accelerator.providers, "CPUExecutionProvider"))
    if session.providers[0] != accelerator.providers[0]:
        raise ModelError("its driver or its library cannot be loaded")
    if accelerator.kv_device == "cpu":
        runner = _host_runner(session, layout, needs)
    else:
        runner = DeviceRunner(
            session, layout, accelerator.kv_device, n_seq=needs.n_seq, capacity=needs.n_ctx
        )
    return Execution(device=accelerator.name, session=session, runner=runner, layout=layout)


def fastest(
    cpu: Execution,
    accelerators: list[Accelerator],
    open_one: Callable[[Accelerator], Execution],
    n_vocab: int,
    *,
    is_asked_for: bool,
) -> tuple[Execution, tuple[str, ...]]:
    """The execution to use, and why not those that failed. One that *is_asked_for* need not be
    faster than the CPU, but right it must be."""
    if not accelerators:
        return cpu, ()
    wanted, cpu_s = _trial(cpu, n_vocab)
    best, best_s, notes, slower = cpu, float("inf") if is_asked_for else cpu_s, [], []
    for accelerator in accelerators:
        try:
            execution = open_one(accelerator)
            found, step_s = _trial(execution, n_vocab)
        except (ModelError, DecodeFailed) as error:
            notes.append(f"{accelerator.name} cannot run the model: {error}")
            continue
        if not divergence(wanted, found) < _MOST_DIVERGENCE:  # nor what is not a number
            notes.append(f"{accelerator.name} gives other logits than the CPU: it is not used")
        elif step_s >= best_s:
            slower.append(f"{accelerator.name} takes {1e3 * step_s:.1f} ms a token")
        else:
            best, best_s = execution, step_s
    times = "; ".join([f"{1e3 * min(best_s, cpu_s):.1f} ms a token", *slower])
    described = msgspec.structs.replace(best, device=f"{best.device} ({times})")
    return described, tuple(notes)


def _trial(execution: Execution, n_vocab: int) -> tuple[Logits, float]:
    """The logits (steps, n_vocab) of some made-up tokens, and the seconds of a step."""
    runner, session = execution.runner, execution.session
    out = np.empty((1, n_vocab), dtype=session.dtype(execution.layout.logits))
    tokens = np.random.default_rng(0).integers(0, n_vocab, _N_READ + _N_DECODED, dtype=np.int32)
    logits, times = [], []
    session.arm()
    for start, end in [(0, _N_READ), *((i, i + 1) for i in range(_N_READ, len(tokens)))]:
        began = time.perf_counter()
        runner.run([Rows(0, start, tokens[start:end], True)], out)
        times.append(time.perf_counter() - began)
        logits.append(out[0].astype(np.float32))
    runner.truncate(0, 0)
    return np.stack(logits), median(times[1:])


def _host_runner(session: OnnxSession, layout: GraphLayout, needs: Needs) -> Runner:
    if layout.attention == "growing":
        return ExactRunner(session, layout, n_seq=needs.n_seq, capacity=needs.n_ctx)
    return SlotRunner(session, layout, n_seq=needs.n_seq, capacity=needs.n_ctx)


def _session(graph: Prepared, needs: Needs, providers: tuple[str, ...]) -> OnnxSession:
    options = session_options(needs.n_threads, spins=is_spinning_faster(needs.n_threads))
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.folder)
    )
    content = graph.proto.SerializeToString()
    graph.proto.Clear()  # with weights inside it may be 2 GiB, which are needed twice as it is
    return OnnxSession(content, options, providers)


def runtime_version() -> tuple[int, int]:
    major, minor = ort.__version__.split(".")[:2]
    return int(major), int(minor)
