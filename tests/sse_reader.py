"""Reads an event stream by the letter of the HTML standard, 9.2.6: for checking what we write."""

from __future__ import annotations

import re

from msgspec import Struct

_LINE_END = re.compile("\r\n|\n|\r")


class Event(Struct, frozen=True):
    """One dispatched event."""

    name: str
    data: str
    id: str


def events_of(body: bytes) -> list[Event]:
    """The events of a whole body. What no blank line ends is not dispatched."""
    text = body.decode("utf-8").removeprefix("\ufeff")
    events: list[Event] = []
    name, last_id, data = "", "", list[str]()
    *lines, _unfinished = _LINE_END.split(text)
    for line in lines:
        if not line:
            if data:
                events.append(Event(name or "message", "\n".join(data), last_id))
            name, data = "", []
            continue
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events
