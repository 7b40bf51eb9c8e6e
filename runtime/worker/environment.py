"""The environment of processes that open models' files, which nobody vouches for."""

from __future__ import annotations

import os
import re

from spillover.runtime.options import EngineName

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LARGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824"
"""ONNX Runtime keeps its packed weights in malloc's memory and reads all of it for each token. In
large pages, of one piece, a step takes 12 % less (0.5B parameters in int4). Other C libraries than
glibc do not look at it."""


def environment(engine: EngineName) -> dict[str, str]:
    """The parent's environment without likely secrets, for a process that opens untrusted files
    with *engine*, or with both engines (auto)."""
    variables = {k: v for k, v in os.environ.items() if not _SECRET.search(k)}
    variables["GGML_NO_BACKTRACE"] = "1"  # a crash must end at once, not start a debugger
    variables["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported
    if engine == "onnx":
        tunables = [variables.get("GLIBC_TUNABLES"), _LARGE_PAGES]
        variables["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
    return variables
