"""Gathers what a provider says about a failure, in whatever JSON and headers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

MAX_BODY_BYTES = 1 << 16
MAX_PROSE_CHARS = 1 << 12
MAX_DELAY_S = 24 * 3600.0
"""No answer can keep a provider away for longer."""
_MAX_VALUES = 512

_CODE_KEYS = frozenset(
    {"type", "code", "status", "reason", "error_code", "error_type", "__type", "finish_reason"}
)
_PROSE_KEYS = frozenset({"message", "error", "errors", "detail", "msg", "loc"})


class Failure:
    """A failure as the provider describes it, gathered while its JSON is walked."""

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.codes: dict[str, str] = {}
        """Its error codes: in lower case without punctuation ("ratelimiterror"), and as written."""
        self.param = ""
        """The field of the request that the provider names."""
        self.prose = ""
        """The text meant for people, in lower case: searched for phrases and never shown, since it
        may repeat the request or the key."""
        self.retry_after_s: float | None = None
        self.may_retry: bool | None = None
        """What x-should-retry says."""

    def add_code(self, code: str) -> None:
        code = code.rpartition("#")[2].partition(":")[0]
        if len(code) <= 64:
            self.codes.setdefault(re.sub("[^a-z]", "", code.lower()), code)

    def add(self, value: Any) -> None:
        """Gather what the JSON *value* says."""
        for key, item in _walk(value):
            if isinstance(item, str):
                self._add_text(key, item)
            elif isinstance(item, int | float) and not isinstance(item, bool):
                self._add_number(key, item)

    def _add_text(self, key: str, value: str) -> None:
        if key in _CODE_KEYS:
            self.add_code(value)
            if key == "code" and value.isascii() and value.isdigit():
                self._add_number(key, int(value[:9]))
        elif key in _PROSE_KEYS:
            prose = f"{self.prose}\n{value[:MAX_PROSE_CHARS].lower()}"
            self.prose = prose.lstrip("\n")[:MAX_PROSE_CHARS]
        elif key == "param":
            self.param = self.param or value[:64]
        elif key == "retryDelay" and value.endswith("s"):  # "37s" or "1.5s"
            self.retry_after_s = _bounded(_number(value[:-1]))

    def _add_number(self, key: str, value: float) -> None:
        if key in ("code", "status", "status_code", "originalStatusCode"):
            if 400 <= value <= 599:
                self.status = self.status or int(value)
        elif key == "estimated_time":  # Hugging Face, while a model loads
            self.retry_after_s = _bounded(value)


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure in an HTTP answer."""
    failure = Failure(status)
    if kind := headers.get("x-amzn-errortype"):
        failure.add_code(kind)
    failure.add(_json(body))
    failure.prose = failure.prose or body[:MAX_PROSE_CHARS].decode("utf-8", "replace").lower()
    delay_s = _retry_delay_s(headers)
    failure.retry_after_s = failure.retry_after_s if delay_s is None else delay_s
    failure.may_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    return failure


def read_event(value: Any, name: str = "") -> Failure:
    """The failure in an event of a stream; *name* is the event's, where it is a code."""
    failure = Failure()
    if name:
        failure.add_code(name)
    failure.add(value)
    return failure


def read_tail(tail: bytes) -> Failure | None:
    """The failure in bytes that belonged to no event; None when there is none.

    Gemini ends a broken stream with a bare JSON object over several lines.
    """
    tail = tail[-MAX_BODY_BYTES:]
    places = [match.start() for match in re.finditer(rb"(?m)^[ \t]*[\[{]", tail)]
    for place in places[:16]:
        value = _json(tail[place:])
        if isinstance(value, list):
            value = next(iter(value), None)
        if isinstance(value, dict) and ("error" in value or value.get("type") == "error"):
            return read_event(value)
    return None


def _json(body: bytes) -> Any:
    """The JSON value that *body* begins with, whatever follows it; None: it begins with none."""
    body = body[:MAX_BODY_BYTES]
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.JSONDecoder().raw_decode(body.decode("utf-8", "replace").lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, item) of every field in *value*, nearest first, and only so many; the items of a list
    have the key of the list."""
    waiting: list[tuple[str, Any]] = [("", value)]
    for key, value in waiting:  # it grows while it is read
        room = _MAX_VALUES - len(waiting)
        if isinstance(value, dict):
            waiting += list(value.items())[:room]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value[:room]]
        else:
            yield key, value


# When to try again.


def _retry_delay_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by retry-after-ms or retry-after; None when the headers do not say.

    An HTTP date counts from the answer's own Date header, so a wrong clock here does no harm.
    """
    delay_ms = _number(headers.get("retry-after-ms"))
    if delay_ms is not None:
        return _bounded(delay_ms / 1e3)
    value = headers.get("retry-after")
    delay_s = _number(value)
    return _bounded(_until(value, headers.get("date")) if delay_s is None else delay_s)


def _bounded(delay_s: float | None) -> float | None:
    """*delay_s* between 0 and a day; None if it is not a number."""
    if delay_s is None or math.isnan(delay_s):
        return None
    return min(max(delay_s, 0.0), MAX_DELAY_S)


def _number(text: str | None) -> float | None:
    if text is None or len(text) > 32 or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _until(date: str | None, now: str | None) -> float | None:
    if date is None or now is None:
        return None
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(now)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # TypeError: one of the two has no time zone
        return None
