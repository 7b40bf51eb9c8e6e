"""Vectors of an engine's streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.embedding_request import EmbeddingRequest
from spillover.runtime.events import Embedded, EngineEvent, Finished
from spillover.runtime.local_engine import LocalEngine


def vector(event: Embedded) -> npt.NDArray[np.float32]:
    return np.frombuffer(event.vector, dtype="<f4")


def vectors_in(events: Iterable[EngineEvent]) -> npt.NDArray[np.float32]:
    """(n_inputs, n_values), in the order of the inputs, each of which comes once."""
    found: dict[int, npt.NDArray[np.float32]] = {}
    for event in events:
        if isinstance(event, Embedded):
            assert event.index not in found
            found[event.index] = vector(event)
    assert sorted(found) == list(range(len(found)))
    return np.array([found[index] for index in range(len(found))])


def vectors_of(engine: LocalEngine, *inputs: Any, **fields: Any) -> npt.NDArray[np.float32]:
    """The vectors of *inputs*."""
    return vectors_in(engine.embed(EmbeddingRequest(inputs=inputs, **fields)))


def end_of(events: list[EngineEvent]) -> Finished:
    end = events[-1]
    assert isinstance(end, Finished)
    return end


def similarity(a: Any, b: Any) -> float:
    """The cosine of the angle between two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
