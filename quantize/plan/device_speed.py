"""How fast this device reads memory, and weights through ONNX Runtime's kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from msgspec import Struct
from onnx import TensorProto, helper

from spillover.quantize.onnx_export.graph.builder import MICROSOFT, GraphBuilder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.session import session_options

_N_ROUNDS = 3
_PART_BYTES = 32 << 20
"""Read by each thread: more than caches hold."""
_N_PRODUCTS, _N_ROWS, _N_VALUES, _BLOCK = 3, 4_096, 4_096, 32


class DeviceSpeed(Struct, frozen=True, kw_only=True):
    """Bytes per second, the best of some rounds."""

    memory: float
    """All threads together, reading."""
    onnx: dict[int, float]
    """Weights of so many bits, in products with one token."""


def measure_speed() -> DeviceSpeed:
    """Takes a second or two, 200 MB, and 32 MB for each thread."""
    return DeviceSpeed(memory=_memory(), onnx={bits: _products(bits) for bits in (4, 8)})


def _memory() -> float:
    n_threads = default_threads()
    parts = [np.ones(_PART_BYTES // 4, np.float32) for _ in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as threads:
        seconds = _best(lambda: list(threads.map(lambda part: np.dot(part, part), parts)))
    return n_threads * _PART_BYTES / seconds


def _products(bits: int) -> float:
    """One token through products whose weights do not fit into caches."""
    graph = GraphBuilder(Initializers(None))
    n_blocks = _N_VALUES // _BLOCK
    packed = np.full((_N_ROWS, n_blocks, _BLOCK * bits // 8), 119, np.uint8)
    scales = np.full((_N_ROWS, n_blocks), 1e-3, np.float32)
    x = "x"
    for i in range(_N_PRODUCTS):
        # Stored anew each time: one product after the other must come from memory.
        weights = graph.initializers.add(f"{i}.blocks", packed)
        shared = graph.initializers.add(f"{i}.scales", scales)
        x = graph.add(
            "MatMulNBits",
            [x, weights, shared],
            [f"{i}.product"],
            domain=MICROSOFT,
            N=_N_ROWS,
            K=_N_VALUES,
            bits=bits,
            block_size=_BLOCK,
            accuracy_level=4,
        )
    info = helper.make_tensor_value_info
    proto = helper.make_graph(
        graph.nodes,
        "products",
        [info("x", TensorProto.FLOAT, [1, _N_VALUES])],
        [info(x, TensorProto.FLOAT, [1, _N_ROWS])],
        initializer=graph.initializers.protos,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=10)
    options = session_options(default_threads(), spins=False)
    providers = ["CPUExecutionProvider"]
    running = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    token = {"x": np.ones((1, _N_VALUES), np.float32)}
    return _N_PRODUCTS * (packed.nbytes + scales.nbytes) / _best(lambda: running.run(None, token))


def _best(work: Callable[[], object]) -> float:
    """The shortest of some rounds, in seconds."""
    seconds = []
    for _ in range(_N_ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return max(min(seconds), 1e-9)
