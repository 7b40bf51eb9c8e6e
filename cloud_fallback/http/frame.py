"""One event of a provider's stream, in either framing."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Framing: TypeAlias = Literal["sse", "eventstream"]
"""Server-sent events, or AWS's binary frames."""


class Frame(Struct, frozen=True, kw_only=True):
    """The event's name ("" where it has none) and data."""

    name: str = ""
    data: bytes
    is_exception: bool = False
    """An eventstream's frame of the message type "exception"; its name is the exception's."""
