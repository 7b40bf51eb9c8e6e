"""Saved states: parts of the arrays of a KV cache, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt

from spillover.runtime.backend import SavedKv, saved_kv


def packed(parts: Sequence[npt.NDArray[Any]]) -> SavedKv:
    """A copy of *parts*."""
    state = saved_kv(sum(part.nbytes for part in parts))
    _copy(parts, _views(state, parts))
    return state


def unpack(state: SavedKv, parts: Sequence[npt.NDArray[Any]]) -> None:
    """Write to *parts*, which have the shapes that they had when they were packed."""
    _copy(_views(state, parts), parts)


def _copy(sources: Iterable[npt.NDArray[Any]], targets: Iterable[npt.NDArray[Any]]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[...] = source


def _views(state: SavedKv, parts: Sequence[npt.NDArray[Any]]) -> Iterable[npt.NDArray[Any]]:
    """What *state* has of each part, in its shape."""
    start = 0
    for part in parts:
        end = start + part.nbytes
        yield state[start:end].view(part.dtype).reshape(part.shape)
        start = end
