"""Decodes JSON to typed values in any thread."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The shared decoder of *kind*.

    msgspec looks up a Struct's fields when it first decodes one, and crashes the process when two
    threads do that at the same time, so it is done here under a lock.
    """
    found = _decoders.get(kind)
    if found is None:
        with _lock:
            found = _decoders[kind] = msgspec.json.Decoder(kind)
    return found
