"""Where a client stands in a stream: ``STREAM:NUMBER``, its last event's id. Pure."""

from __future__ import annotations

from spillover.edge_server.wire.errors import WireError, bad_request

_MAX_DIGITS = 15


def event_id(stream_id: str, number: int) -> str:
    return f"{stream_id}:{number}"


def asked(stream_id: str, last_event_id: str | None, after: str | None) -> int:
    """The cursor of a request; 0 stands before the first event.

    A browser repeats the address of its first request, so that its header counts, not the
    parameter in there. Raises WireError.
    """
    if last_event_id:
        name, _, number = last_event_id.strip().rpartition(":")
        if name != stream_id:
            raise bad_request(
                "Last-Event-ID belongs to another stream, or is no id of ours", "Last-Event-ID"
            )
        return _number(number, "Last-Event-ID")
    return _number(after, "after") if after is not None else 0


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise bad_request(f"{name}: {text[:40]!r} is no number of an event", name)
    return int(text)


def check(after: int, *, first: int, last: int) -> None:
    """WireError for a cursor that is not within a log of the events *first* to *last*."""
    if after > last:
        raise WireError(
            400,
            "invalid_request_error",
            f"event {after} has not been yet: the newest one is {last}",
            "after",
            last=last,
        )
    if after < first - 1:
        raise WireError(
            410,
            "gone_error",
            f"the events after {after} are no longer all there: the oldest one is {first}. "
            f"Resume after {first - 1}, with a gap, or ask anew",
            "after",
            first=first,
        )
