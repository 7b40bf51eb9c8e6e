"""Chooses between the CPU and accelerators, which must prove that they are correct and fast.

A wheel that lists an accelerator proves little: the driver may be missing, there may be no code for
this chip, or the results may differ. So it must produce the CPU's logits in less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import msgspec
import numpy as np

from spillover.runtime.backend import DecodeFailed, Logits, Rows
from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.accelerators import Accelerator
from spillover.runtime.onnx.runners.execution import Execution
from spillover.runtime.onnx.runners.logits import divergence

_N_READ, _N_DECODED = 16, 8
_MOST_DIVERGENCE = 0.05
"""Between the distributions of CPU and accelerator, in nats; fp16 arithmetic causes about 0.001."""


def fastest(
    cpu: Execution,
    accelerators: list[Accelerator],
    open_one: Callable[[Accelerator], Execution],
    n_vocab: int,
    *,
    is_asked_for: bool,
) -> tuple[Execution, tuple[str, ...]]:
    """The execution to use, and why others failed. An accelerator that the user asked for
    (*is_asked_for*) need not be faster than the CPU, but must be correct."""
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
        if not divergence(wanted, found) < _MOST_DIVERGENCE:  # rejects NaN too
            notes.append(f"{accelerator.name} computes other logits than the CPU: it is not used")
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
