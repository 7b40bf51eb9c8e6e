"""What a provider says of a failure, gathered from whatever JSON it says it in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.providers.dialects import vocabulary
from spillover.cloud_fallback.providers.dialects.retry_after import (
    bounded,
    protobuf_delay_s,
    retry_delay_s,
)

MAX_BODY_BYTES = 1 << 16
MAX_PROSE_CHARS = 1 << 12
_MAX_VALUES = 512

_CODE_KEYS = frozenset(
    {"type", "code", "status", "reason", "error_code", "error_type", "__type", "finish_reason"}
)
_PROSE_KEYS = frozenset({"message", "error", "errors", "detail", "msg", "loc"})


class Failure(Struct, frozen=True, kw_only=True):
    """*codes* are machine words in lower case without punctuation ("ratelimiterror"); *prose* is
    what was meant for people, in lower case: to look for phrases in, never to be shown, since it
    may repeat the request or the key."""

    status: int | None = None
    codes: frozenset[str] = frozenset()
    shown: str = ""
    """The first known code, as the provider writes it."""
    param: str = ""
    """The field of the request that the provider names."""
    prose: str = ""
    retry_after_s: float | None = None
    may_retry: bool | None = None
    """What x-should-retry says."""


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure told by an HTTP answer."""
    codes = _Words()
    if kind := headers.get("x-amzn-errortype"):
        codes.add_code(kind)
    failure = _read(_json(body), codes, status)
    if not failure.prose:
        failure = msgspec.structs.replace(failure, prose=_text(body))
    delay = retry_delay_s(headers)
    return msgspec.structs.replace(
        failure,
        status=status,
        retry_after_s=failure.retry_after_s if delay is None else delay,
        may_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
    )


def read_event(value: Any, name: str = "") -> Failure:
    """The failure told by an event of a stream; *name* is the event's, where it is a code."""
    codes = _Words()
    if name:
        codes.add_code(name)
    return _read(value, codes, None)


def read_tail(tail: bytes) -> Failure | None:
    """The failure in bytes that belonged to no event; None when there is none.

    Gemini ends a broken stream with a bare JSON object over several lines.
    """
    for start in _json_starts(tail[-MAX_BODY_BYTES:]):
        value = _json(start)
        if isinstance(value, list):
            value = next(iter(value), None)
        if isinstance(value, dict) and ("error" in value or value.get("type") == "error"):
            return read_event(value)
    return None


def _json_starts(tail: bytes) -> Iterator[bytes]:
    places = [match.start() for match in re.finditer(rb"(?m)^[ \t]*[\[{]", tail)]
    return (tail[place:] for place in places[:16])


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body[:MAX_BODY_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _first_json(body[:MAX_BODY_BYTES])


def _first_json(body: bytes) -> Any:
    """The JSON value that *body* begins with, whatever follows it."""
    try:
        return json.JSONDecoder().raw_decode(body.decode("utf-8", "replace").lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _text(body: bytes) -> str:
    return body[:MAX_PROSE_CHARS].decode("utf-8", "replace").lower()


class _Words:
    """Collects what the walk over a JSON value finds."""

    def __init__(self) -> None:
        self.codes: set[str] = set()
        self.shown = ""
        self.prose: list[str] = []
        self.param = ""
        self.status: int | None = None
        self.delay_s: float | None = None

    def add_code(self, code: str) -> None:
        code = code.rpartition("#")[2].partition(":")[0]
        if len(code) > 64:
            return
        word = re.sub("[^a-z]", "", code.lower())
        self.codes.add(word)
        if not self.shown and _is_known(code, word):
            self.shown = code

    def add(self, key: str, value: Any) -> None:
        if isinstance(value, str):
            self._add_text(key, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self._add_number(key, value)

    def _add_text(self, key: str, value: str) -> None:
        if key in _CODE_KEYS:
            self.add_code(value)
            if key == "code" and value.isascii() and value.isdigit():
                self._add_number(key, int(value[:9]))
        elif key in _PROSE_KEYS:
            self.prose.append(value[:MAX_PROSE_CHARS])
        elif key == "param":
            self.param = self.param or value[:64]
        elif key == "retryDelay":
            self.delay_s = protobuf_delay_s(value)

    def _add_number(self, key: str, value: float) -> None:
        if key in ("code", "status", "status_code", "originalStatusCode"):
            if 400 <= value <= 599:
                self.status = self.status or int(value)
        elif key == "estimated_time":  # Hugging Face, while a model loads
            self.delay_s = bounded(value)


def _is_known(code: str, word: str) -> bool:
    """Whether *code* may be shown: nothing but a published error code, whatever stands there."""
    return word in vocabulary.CODES and re.fullmatch("[A-Za-z_-]+", code) is not None


def _read(value: Any, words: _Words, status: int | None) -> Failure:
    for key, item in _walk(value):
        words.add(key, item)
    return Failure(
        status=status or words.status,
        codes=frozenset(words.codes),
        shown=words.shown,
        param=words.param,
        prose="\n".join(words.prose).lower()[:MAX_PROSE_CHARS],
        retry_after_s=words.delay_s,
    )


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
