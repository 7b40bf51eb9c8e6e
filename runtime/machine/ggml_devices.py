"""Asks ggml for the devices that it can compute on, and for their memory.

It is also run by itself, in a process that may crash, and so imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

_GPUS = _, _INTEGRATED = (1, 2)
"""The types of ggml's devices that are GPUs, the second one of those that share the memory."""


def devices(library: Path) -> list[dict[str, Any]]:
    """Each device that ggml knows: is_gpu, shares_memory (of the host), name, free_bytes,
    total_bytes; empty where it does not tell. *library* is the file of libllama, which is
    initialised."""
    try:
        registry, base = (
            ctypes.CDLL(str(library.with_name(library.name.replace("llama", name))))
            for name in ("ggml", "ggml-base")
        )
        registry.ggml_backend_dev_get.restype = ctypes.c_void_p
        base.ggml_backend_dev_description.restype = ctypes.c_char_p
        handles = [
            ctypes.c_void_p(registry.ggml_backend_dev_get(ctypes.c_size_t(i)))
            for i in range(registry.ggml_backend_dev_count())
        ]
        return [_described(base, handle) for handle in handles]
    except (AttributeError, OSError):
        return []


def _described(base: ctypes.CDLL, device: ctypes.c_void_p) -> dict[str, Any]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    kind = base.ggml_backend_dev_type(device)
    return {
        "is_gpu": kind in _GPUS,
        # Metal calls Apple's GPUs by the other type.
        "shares_memory": kind == _INTEGRATED or sys.platform == "darwin",
        "name": base.ggml_backend_dev_description(device).decode(errors="replace"),
        "free_bytes": free.value,
        "total_bytes": total.value,
    }


def _main(library: Path) -> None:
    """Print as JSON how libllama was compiled, and the GPUs that it can use."""
    lib = ctypes.CDLL(str(library))
    lib.llama_backend_init()
    gpus = [device for device in devices(library) if device["is_gpu"]]
    lib.llama_print_system_info.restype = ctypes.c_char_p
    lib.llama_supports_gpu_offload.restype = ctypes.c_bool
    info = lib.llama_print_system_info().decode(errors="replace").strip()
    said = {"system_info": info, "offloads": lib.llama_supports_gpu_offload(), "gpus": gpus}
    print("\n" + json.dumps(said))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
