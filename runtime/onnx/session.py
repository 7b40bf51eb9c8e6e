"""One ONNX Runtime session: how it is opened, run and stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import DecodeAborted, DecodeFailed
from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.feeds import Feeds
from spillover.runtime.onnx.library import ort

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


_SPIN_US = 50
"""Microseconds for which an idle thread spins before it sleeps: longer than most operators of a
small model take. Without a bound it spins for a second. Beside two busy programs on two cores the
bundled model kept 0.3 of its speed then, and 0.55 with this bound; alone it loses a tenth."""


def session_options(n_threads: int, *, spins: bool) -> Any:
    """Options of every session of this process.

    denormal_as_zero: the tails of a softmax are denormal numbers, which slow some CPUs down by up
    to 3x per step; the main thread takes the setting of the process's first session.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # It plans memory for each new shape and keeps the plan: every step of a growing cache is one.
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    if spins:  # onnxruntime before 1.26 does not know it, and spins without a bound
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    return options


class OnnxSession:
    """A loaded graph on the execution providers that were asked for. Raises ModelError."""

    def __init__(self, graph: Path | bytes, options: Any, providers: Sequence[Any]) -> None:
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = ort.InferenceSession(source, options, providers=list(providers))
        except Exception as error:  # the library's errors have no common base class
            raise ModelError(f"ONNX Runtime cannot load the model: {error}") from error
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._dtypes = {value.name: _DTYPES.get(value.type, np.float32) for value in values}
        self._run_options = ort.RunOptions()

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._session.get_providers())

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self._session.get_inputs()]

    def dtype(self, name: str) -> type[np.generic]:
        """numpy's type of an input or output."""
        return self._dtypes[name]

    def binding(self) -> Binding:
        return Binding(self._session.io_binding(), self._dtypes)

    def arm(self) -> None:
        """Begin a call of one or more runs, which stop() ends."""
        self._run_options = ort.RunOptions()

    def stop(self) -> None:
        """End the runs of this call soon; any thread may call it."""
        self._run_options.terminate = True

    def run(self, binding: Binding) -> None:
        """Raises DecodeAborted after stop(), DecodeFailed otherwise."""
        options = self._run_options
        try:
            self._session.run_with_iobinding(binding.raw, options)
        except Exception as error:
            if options.terminate:
                raise DecodeAborted from error
            raise DecodeFailed(f"ONNX Runtime could not run the graph: {error}") from error
        if options.terminate:  # too late for an accelerator that runs the graph as one operator
            raise DecodeAborted


class Binding:
    """The inputs and outputs of runs; *raw* is ONNX Runtime's. Binding is slow, so arrays of the
    same shape as last time only get new values."""

    def __init__(self, raw: Any, dtypes: Mapping[str, type[np.generic]]) -> None:
        self.raw = raw
        self._dtypes = dtypes
        self._inputs: Feeds = {}
        self._outputs: dict[str, tuple[int, tuple[int, ...]]] = {}

    def feed(self, arrays: Feeds) -> None:
        """Bind inputs, in the types that the graph expects."""
        for name, array in arrays.items():
            bound = self._inputs.get(name)
            if bound is not None and bound.shape == array.shape:
                bound[...] = array
                continue
            copied = array.astype(self._dtypes[name], order="C")
            self._inputs[name] = copied
            self.raw.bind_cpu_input(name, copied)

    def write_to(self, name: str, target: npt.NDArray[Any]) -> None:
        """Have an output written to *target*, which the caller keeps."""
        place = (target.ctypes.data, target.shape)
        if self._outputs.get(name) != place:
            self._outputs[name] = place
            address, shape = place
            self.raw.bind_output(name, "cpu", 0, target.dtype.type, list(shape), address)

    def make(self, name: str) -> None:
        """Have the next run make an array for an output; then made() returns it."""
        self.raw.clear_binding_outputs()
        self._outputs.clear()
        self.raw.bind_output(name)

    def made(self) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = self.raw.get_outputs()[0].numpy()
        return array
