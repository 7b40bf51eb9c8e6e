"""ONNX Runtime with its telemetry off: the only module that may import it.

From 1.29 on, importing it writes a device id and sends events unless ORT_DISABLE_TELEMETRY was set
before; the worker's environment sets it, and this module sets it for every other process.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

_SWITCH = "ORT_DISABLE_TELEMETRY"

_LOG_FATAL = 4


def _import() -> Any:
    if "onnxruntime" in sys.modules and os.environ.get(_SWITCH) != "1":
        warnings.warn(
            f"onnxruntime was imported before {_SWITCH}=1 was set: it may send telemetry",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ[_SWITCH] = "1"
    library = importlib.import_module("onnxruntime")
    # The exception carries the message of a failure too.
    library.set_default_logger_severity(_LOG_FATAL)
    return library


ort: Any = _import()
