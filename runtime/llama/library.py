"""llama.cpp: the only module that imports it. It is initialised once per process, and its log is
kept instead of printed.

It comes with the extra [llama] and may be missing. Import this package only where a GGUF file is
opened: without llama.cpp that raises ModelError.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec

from spillover.models.libraries import INSTALL_LLAMA
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.model_shape import GpuMemory, gpu_memory_of


@contextmanager
def _bare_package() -> Generator[None]:
    """Let modules of llama_cpp be imported without the package itself, whose own imports (chat
    formats, a template engine, a cache) take longer than the library, and are not used here."""
    if "llama_cpp" in sys.modules or (spec := find_spec("llama_cpp")) is None:
        yield
        return
    sys.modules["llama_cpp"] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules["llama_cpp"]  # whoever imports it gets the whole one


try:
    with _bare_package():
        import llama_cpp.llama_cpp as lib
except ModuleNotFoundError as error:
    raise ModelError(
        f"a GGUF file needs llama.cpp, and {error.name} is not installed: {INSTALL_LLAMA}, or give "
        "an ONNX model"
    ) from error
except (ImportError, OSError, RuntimeError) as error:  # what llama_cpp raises for its libraries
    raise ModelError(
        f"llama.cpp cannot be loaded ({error}): install it again with "
        "pip install --force-reinstall --no-cache-dir llama-cpp-python"
    ) from error

__all__ = ["LOG", "lib", "start_library"]

_LOG_WARN = 3
_LOG_ERROR = 4
_LOG_CONT = 5


class LibraryLog:
    """Keeps the last warnings and errors of llama.cpp: its functions return no reasons."""

    def __init__(self, n_lines: int = 20) -> None:
        self._lines: deque[str] = deque(maxlen=n_lines)
        self._keeps = False
        self.listener: Callable[[str], None] | None = None
        """Called with every piece of the log, which may be a part of a line."""
        # llama.cpp calls it until the process ends, so this object must live as long.
        self._callback = lib.llama_log_callback(self._on_line)

    def install(self) -> None:
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _on_line(self, level: int, text: bytes, _user_data: object) -> None:
        if self.listener is not None:
            self.listener(text.decode("utf-8", "replace"))
        if level != _LOG_CONT:
            self._keeps = level in (_LOG_WARN, _LOG_ERROR)
        if self._keeps:
            self._lines.append(text.decode("utf-8", "replace").rstrip())

    def tail(self) -> str:
        """The last warnings and errors, joined into one line."""
        return "; ".join(line for line in self._lines if line)


LOG = LibraryLog()


def start_library() -> None:
    """Initialise llama.cpp. It may be called again."""
    LOG.install()
    lib.llama_backend_init()


def gpu_memory() -> GpuMemory | None:
    """What is free on each GPU; None where the library does not tell."""
    from spillover.runtime.machine.ggml_devices import devices  # slow
    from spillover.runtime.machine.llama_trial import find_library

    library = find_library()
    return gpu_memory_of(devices(library) if library else [])


def uses_gpu(n_gpu_layers: int) -> bool:
    """Whether a model with so many layers for a GPU (-1: all) finds one."""
    return n_gpu_layers != 0 and bool(lib.llama_supports_gpu_offload())
