"""The weights of a graph: in its own file, or in a second one that sessions map into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

MIN_EXTERNAL_BYTES = 4096
"""Smaller tensors stay in the graph, whose patches may need their values."""
_ALIGNMENT = 4096
"""Alignment of tensors in the second file, so that they can be mapped in place."""


class Initializers:
    """Stores weights one by one without keeping the arrays; close() ends the second file."""

    def __init__(self, data_path: Path | None) -> None:
        self.protos: list[TensorProto] = []
        self.n_bytes = 0
        self._file = None if data_path is None else data_path.open("xb")
        self._location = "" if data_path is None else data_path.name

    def add(self, name: str, array: np.typing.NDArray[Any]) -> str:
        """Store *array* and return its name."""
        array = np.ascontiguousarray(array)
        proto = TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape
        )
        self.n_bytes += array.nbytes
        if self._file is None or array.nbytes < MIN_EXTERNAL_BYTES:
            proto.raw_data = array.tobytes()
        else:
            self._write(proto, array)
        self.protos.append(proto)
        return name

    def _write(self, proto: TensorProto, array: np.typing.NDArray[Any]) -> None:
        assert self._file is not None
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        place = {"location": self._location, "offset": self._file.tell(), "length": array.nbytes}
        proto.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            proto.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
        self._file.write(array.data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
