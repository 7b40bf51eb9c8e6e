"""A model file that was opened: what loading a GGUF file and an ONNX model have in common."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.backend import Backend
from spillover.runtime.worker.memory_fit import ContextFit

N_BATCH = 512
"""Most tokens of one call; larger calls read no faster on the devices measured."""


class OpenedModel(Struct, frozen=True, kw_only=True):
    """A backend, how its context was laid out, and what its speed depends on besides the facts
    that the backend tells."""

    backend: Backend
    fit: ContextFit
    speed_facts: tuple[object, ...]
