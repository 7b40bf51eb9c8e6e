"""Decides whether idle threads of ONNX Runtime should spin or sleep between two operators.

Spinning saves some hundred wake-ups per token when the cores are ours. When they are shared or
under a quota it costs more than it saves: steps that took twice as long were measured.
"""

from __future__ import annotations

import itertools
import time
from statistics import median

import numpy as np
from onnx import TensorProto, helper

from spillover.runtime.onnx.session import OnnxSession, session_options

_WIDTH = 1024
_N_OPERATORS = 16
"""As many consecutive products as a few layers of a small model have."""
_N_RUNS = 8
_N_ROUNDS = 2
_WORTH = 0.97
"""Spinning heats the device, so the gain must exceed the noise."""


def is_spinning_faster(n_threads: int) -> bool:
    """Try both on a chain of small products; takes about a tenth of a second."""
    if n_threads == 1:
        return False
    graph = _chain()
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_N_ROUNDS):
        for spins in times:
            times[spins].append(_median_s(graph, n_threads, spins=spins))
    return min(times[True]) < _WORTH * min(times[False])


def _median_s(graph: bytes, n_threads: int, *, spins: bool) -> float:
    # A new session each time: the other one's threads may still spin.
    options = session_options(n_threads, spins=spins)
    session = OnnxSession(graph, options, ["CPUExecutionProvider"])
    binding = session.binding()
    matrix = np.full((_WIDTH, _WIDTH), 1 / _WIDTH, dtype=np.float32)
    out = np.ones((1, _WIDTH), dtype=np.float32)
    binding.feed({"x": np.ones((1, _WIDTH)), "w": matrix})
    binding.write_to("y", out)
    times = []
    for _ in range(_N_RUNS + 2):
        started = time.perf_counter()
        session.run(binding)
        times.append(time.perf_counter() - started)
    return median(times[2:])


def _chain() -> bytes:
    """y = x·w·w·…"""
    names = ["x", *(f"x{i}" for i in range(1, _N_OPERATORS)), "y"]
    nodes = [
        helper.make_node("MatMul", [given, "w"], [made])
        for given, made in itertools.pairwise(names)
    ]
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [info("x", kind, [1, _WIDTH]), info("w", kind, [_WIDTH, _WIDTH])]
    graph = helper.make_graph(nodes, "chain", inputs, [info("y", kind, [1, _WIDTH])])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    content: bytes = model.SerializeToString()
    return content
