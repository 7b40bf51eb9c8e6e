"""Which libraries are installed that a kind of model file needs."""

from __future__ import annotations

import importlib.util

INSTALL_LLAMA = "pip install 'spillover[llama]' (in a clone of the repository: make setup)"
"""What to type for llama.cpp, which has to be compiled and is therefore an extra."""


def has_llama() -> bool:
    """Whether llama.cpp is installed. It is not imported."""
    return importlib.util.find_spec("llama_cpp") is not None
