"""Fetches a file from an address, and goes on where an earlier attempt stopped."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from spillover.models.pull.fetched import Progress, PullError, need_space
from spillover.models.source import parse_source

TIMEOUT_S = 30.0
"""Silence after which a connection is given up."""

MOST_BREAKS = 5
"""Interruptions in a row, without a byte between them, after which the attempt ends."""

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+)")


class _Mark(Struct, frozen=True):
    """What an incomplete file is a part of."""

    url: str
    validator: str
    """The ETag, or the time of the last change."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            if req.full_url.startswith("https://"):
                raise PullError(f"{req.full_url} leads from https to {newurl[:200]}: not fetched")
            parse_source(newurl)  # raises where it is not on this device
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, progress: Progress, *, size_bytes: int = 0) -> None:
    """Fetch *url* into *target*, which appears when it is complete.

    Until then target.part holds what has come, also after a failure: the next call goes on there,
    if the server still has the same file. Raises PullError, OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    opener = urllib.request.build_opener(_Redirects)
    n_breaks = 0
    while True:
        before = _size(part)
        try:
            _attempt(opener, url, part, progress, size_bytes)
            break
        except (ConnectionError, TimeoutError, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and not _is_of_network(error):
                raise
            n_breaks = 1 if _size(part) > before else n_breaks + 1
            if n_breaks >= MOST_BREAKS:
                raise PullError(
                    f"{url} cannot be fetched: {_reason(error)}. {_size(part) / 1e6:.1f} MB are "
                    "here; the same command goes on with the rest"
                ) from error
            time.sleep(min(2 ** (n_breaks - 1), 10) / 4)
    part.replace(target)
    _mark_path(part).unlink(missing_ok=True)


def _attempt(
    opener: urllib.request.OpenerDirector,
    url: str,
    part: Path,
    progress: Progress,
    size_bytes: int,
) -> None:
    n_held, headers = _held(part, url)
    request = urllib.request.Request(url, headers={"User-Agent": "spillover", **headers})
    try:
        response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and n_held:  # longer than the file is now: not its beginning
                _forget(part)
                raise ConnectionError("the file has changed") from error
            if error.code in (408, 425, 429) or error.code >= 500:
                raise ConnectionError(f"the server says {error.code}") from error
            raise PullError(_refusal(url, error.code)) from error
    with response:
        first, total = _place(response.status, response.headers, n_held)
        if first != n_held:
            n_held = 0
        if size_bytes and total and total != size_bytes:
            raise PullError(f"{url} has {total} bytes instead of {size_bytes}: it is another file")
        need_space(part.parent, max(total - n_held, 0))
        _write_mark(part, url, response.headers)
        _append(response, part, n_held, total, progress)


def _append(response: Any, part: Path, n_held: int, total: int, progress: Progress) -> None:
    with part.open("r+b" if n_held else "wb") as file:
        file.seek(n_held)
        file.truncate()
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            n_held += len(chunk)
            progress(n_held, total)
    if total and n_held != total:
        raise ConnectionError(f"it ended after {n_held} of {total} bytes")


def _place(status: int, headers: Message, n_held: int) -> tuple[int, int]:
    """Where the body begins in the file, and the size of the file (0: unknown)."""
    if status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or int(match["first"]) != n_held:
            raise PullError("the server sent another part of the file than was asked for")
        return n_held, int(match["total"])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else 0


def _held(part: Path, url: str) -> tuple[int, dict[str, str]]:
    """The bytes that are here already, and the headers that ask for the rest of the same file."""
    n_held = _size(part)
    mark = None
    with contextlib.suppress(OSError, msgspec.DecodeError):
        mark = msgspec.json.decode(_mark_path(part).read_bytes(), type=_Mark)
    if not n_held or mark is None or mark.url != url or not mark.validator:
        _forget(part)
        return 0, {}
    return n_held, {"Range": f"bytes={n_held}-", "If-Range": mark.validator}


def _write_mark(part: Path, url: str, headers: Message) -> None:
    tag = headers.get("ETag", "")
    strong = "" if tag.startswith("W/") else tag
    mark = _Mark(url, strong or headers.get("Last-Modified", ""))
    _mark_path(part).write_bytes(msgspec.json.encode(mark))


def _mark_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _mark_path(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _is_of_network(error: OSError) -> bool:
    """Rather than of the disk."""
    kinds = (ConnectionError, TimeoutError, urllib.error.URLError, socket.gaierror)
    return isinstance(error, kinds) or error.errno is None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _refusal(url: str, code: int) -> str:
    what = {401: "asks for a login", 403: "refuses it", 404: "has no such file"}
    return f"{url}: the server {what.get(code, f'says {code}')}. Look at the address"
