"""A client's position in a stream: ``STREAM:NUMBER``, the id of its last event. Pure."""

from __future__ import annotations

from spillover.edge_server.wire.errors import WireError, bad_request

_MAX_DIGITS = 15


def event_id(stream_id: str, number: int) -> str:
    return f"{stream_id}:{number}"


def asked(stream_id: str, last_event_id: str | None, after: str | None) -> int:
    """The cursor of a request; 0 is before the first event.

    The header overrides the parameter: a browser repeats the address of its first request.
    Raises WireError.
    """
    if last_event_id:
        name, _, number = last_event_id.strip().rpartition(":")
        if name != stream_id:
            message = "Last-Event-ID is not an event of this stream"
            raise bad_request(message, "Last-Event-ID")
        return _number(number, "Last-Event-ID")
    return _number(after, "after") if after is not None else 0


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise bad_request(f"{name}: {text[:40]!r} is not the number of an event", name)
    return int(text)


def check(after: int, *, first: int, last: int) -> None:
    """Raise WireError for a cursor outside a log of the events *first* to *last*."""
    if after > last:
        message = f"there is no event {after} yet: the newest is {last}"
        raise WireError(400, message, "after", last=last)
    if after < first - 1:
        hint = f"resume after {first - 1} and miss some, or ask again"
        message = f"the events after {after} are not all kept: the oldest is {first}. {hint}"
        raise WireError(410, message, "after", first=first)
