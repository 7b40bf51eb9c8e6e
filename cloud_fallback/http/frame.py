"""One event of a provider's stream, however the stream is cut."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Framing: TypeAlias = Literal["sse", "eventstream"]
"""How a stream is cut into events: server-sent events, or AWS's binary frames."""


class Frame(Struct, frozen=True, kw_only=True):
    """Its name ("" where it has none) and its data."""

    name: str = ""
    data: bytes
    is_exception: bool = False
    """An eventstream's frame of the message type "exception"; its name is the exception's."""
