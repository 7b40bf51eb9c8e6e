"""Fetches a file from an address, and goes on where an earlier attempt stopped."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from spillover.models.entry import sha256_of
from spillover.models.pull.failures import Broken, Refused, broken, need_space, shown, through_proxy
from spillover.models.pull.fetched import INCOMPLETE, Progress, PullError
from spillover.models.source import parse_source

TIMEOUT_S = 30.0
"""Silence after which a connection is given up."""

MOST_BREAKS = 5
"""Interruptions in a row, without a byte between them, after which the attempt ends."""

LONGEST_WAIT_S = 30.0
"""Before the next attempt, whatever a server asks for."""

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+)")
_OF_THE_MOMENT = (408, 425, 429)
"""Status codes after which the same request may succeed, as after those from 500 on."""


class _Mark(Struct, frozen=True):
    """What an incomplete file is a part of."""

    url: str
    validator: str
    """The ETag, or the time of the last change."""


class _Wanted(Struct, frozen=True, kw_only=True):
    """A file to be fetched."""

    url: str
    part: Path
    """What has come of it."""
    size_bytes: int
    """0: unknown"""
    sha256: str
    headers: Mapping[str, str]

    @property
    def mark(self) -> Path:
        """The file that says what *part* is a part of."""
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def n_held(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)


def download(
    url: str,
    target: Path,
    progress: Progress,
    *,
    size_bytes: int = 0,
    sha256: str = "",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Fetch *url* into *target*, which appears when it is complete and has the digest *sha256*, if
    that is known. *headers* are sent, but those of a login to no other host.

    Until then target.incomplete holds what has come, also after a failure: the next call goes on
    there. Without a digest it does so only if the server still has the same file, and a *target*
    that is there counts as such a beginning until it is `settled`. Raises PullError, OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = _Wanted(
        url=_quoted(url),
        part=target.with_name(f"{target.name}{INCOMPLETE}"),
        size_bytes=size_bytes,
        sha256=sha256,
        headers=headers or {},
    )
    if target.is_file() and sha256:
        if sha256_of(target) == sha256:
            return
        target.unlink()
    elif target.is_file() and wanted.mark.is_file():
        target.replace(wanted.part)
    is_resumed = wanted.n_held > 0
    _transfer(wanted, progress)
    if not _is_right(wanted) and is_resumed:  # what was there was no beginning of it
        wanted.forget()
        _transfer(wanted, progress)
    if not _is_right(wanted):
        wanted.forget()
        raise PullError(
            f"{shown(url)} is damaged, or another file than it should be: its sha256 is not "
            f"{sha256[:16]}…. Nothing was kept"
        )
    wanted.part.replace(target)


def settled(target: Path) -> None:
    """Keep *target*, which was fetched, whatever its server may have in the future."""
    target.with_name(f"{target.name}{INCOMPLETE}.json").unlink(missing_ok=True)


def _is_right(wanted: _Wanted) -> bool:
    return not wanted.sha256 or sha256_of(wanted.part) == wanted.sha256


# --- attempts -----------------------------------------------------------------------------------


def _transfer(wanted: _Wanted, progress: Progress) -> None:
    """Ask until all has come, or until nothing comes any more."""
    opener = _opener()
    n_breaks = n_restarts = 0
    while True:
        before = wanted.n_held
        try:
            return _attempt(opener, wanted, progress)
        except Broken as error:
            n_restarts += wanted.n_held < before
            n_breaks = 1 if wanted.n_held > before else n_breaks + 1
            if n_breaks + n_restarts >= MOST_BREAKS:
                raise _given_up(wanted, error) from error
            pause_s = max(min(2 ** (n_breaks - 1), 10) / 4, error.wait_s)
            time.sleep(min(pause_s, LONGEST_WAIT_S))


def _given_up(wanted: _Wanted, error: Broken) -> PullError:
    n_held, url = wanted.n_held, wanted.url
    rest = "are here; the same command goes on with the rest, if the server can"
    advice = f"{n_held / 1e6:.1f} MB {rest}" if n_held else "Look at the connection; try it later"
    return PullError(f"{shown(url)} cannot be fetched{through_proxy(url)}: {error}. {advice}")


def _attempt(opener: urllib.request.OpenerDirector, wanted: _Wanted, progress: Progress) -> None:
    n_held, headers = _held(wanted)
    if wanted.sha256 and 0 < n_held == wanted.size_bytes:
        return
    request = urllib.request.Request(
        wanted.url, headers={"User-Agent": "spillover", **wanted.headers, **headers}
    )
    try:
        response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if n_held and error.headers.get("Content-Range") == f"bytes */{n_held}":
                return  # all of it is here
            raise _refused(wanted, error, n_held) from error
    except (OSError, http.client.HTTPException) as error:
        raise broken(wanted.url, error) from error
    with response:
        n_held, total = _place(wanted, response.status, response.headers, n_held)
        if wanted.size_bytes and total and total != wanted.size_bytes:
            raise PullError(
                f"{shown(wanted.url)} is another file: it has {total} bytes instead of "
                f"{wanted.size_bytes}"
            )
        need_space(wanted.part.parent, max(total - n_held, 0))
        _write_mark(wanted, response.headers)
        _append(response, wanted, n_held, total, progress)


def _append(
    response: http.client.HTTPResponse,
    wanted: _Wanted,
    n_held: int,
    total: int,
    progress: Progress,
) -> None:
    with wanted.part.open("r+b" if n_held else "wb", buffering=0) as file:
        file.seek(n_held)
        file.truncate()
        for chunk in _chunks(response, wanted.url, total - n_held if total else None):
            _write(file, chunk)
            n_held += len(chunk)
            progress(n_held, total)
    if total and n_held != total:
        raise Broken(f"it ended after {n_held} of {total} bytes")


def _write(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _chunks(response: http.client.HTTPResponse, url: str, n_left: int | None) -> Generator[bytes]:
    """What comes, as it comes. *n_left*: how many bytes there are; None: unknown."""
    while n_left is None or n_left > 0:
        try:
            chunk = response.read1(_CHUNK_BYTES if n_left is None else min(_CHUNK_BYTES, n_left))
        except (OSError, http.client.HTTPException) as error:
            raise broken(url, error) from error
        if not chunk:
            return
        if n_left is not None:
            n_left -= len(chunk)
        yield chunk


# --- requests and answers -----------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http, and takes a login to no other host."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme != "https":
            if before.scheme == "https":
                raise PullError(
                    f"{shown(req.full_url)} leads from https to {shown(newurl)}: not fetched"
                )
            if after.hostname != before.hostname:
                parse_source(newurl)  # raises where it is not on this device
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and after.netloc != before.netloc:
            request.remove_header("Authorization")
        return request


def _opener() -> urllib.request.OpenerDirector:
    from httpcore2 import default_ssl_context  # slow

    tls = urllib.request.HTTPSHandler(context=default_ssl_context())
    return urllib.request.build_opener(_Redirects, tls)


def _refused(wanted: _Wanted, error: urllib.error.HTTPError, n_held: int) -> Broken | Refused:
    if error.code == 416 and n_held:  # longer than the file is now: not its beginning
        wanted.forget()
        return Broken("the file has changed")
    if error.code in _OF_THE_MOMENT or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        wait_s = float(asked) if asked.isdecimal() else 0.0
        return Broken(f"the server says {error.code}", wait_s=wait_s)
    return Refused(wanted.url, error.code)


def _place(wanted: _Wanted, status: int, headers: Message, n_held: int) -> tuple[int, int]:
    """Where the body begins in the file, and the size of the file (0: unknown)."""
    if status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or int(match["first"]) != n_held:
            wanted.forget()
            raise Broken("the server sent another part of the file than was asked for")
        return n_held, int(match["total"])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else 0


def _held(wanted: _Wanted) -> tuple[int, dict[str, str]]:
    """The bytes that are here already, and the headers that ask for the rest of the same file."""
    n_held = wanted.n_held
    if n_held and wanted.sha256 and n_held <= (wanted.size_bytes or n_held):
        return n_held, {"Range": f"bytes={n_held}-"}  # the digest will tell
    mark = None
    with contextlib.suppress(OSError, msgspec.DecodeError):
        mark = msgspec.json.decode(wanted.mark.read_bytes(), type=_Mark)
    if not n_held or mark is None or mark.url != wanted.url or not mark.validator:
        wanted.forget()
        return 0, {}
    return n_held, {"Range": f"bytes={n_held}-", "If-Range": mark.validator}


def _write_mark(wanted: _Wanted, headers: Message) -> None:
    if wanted.sha256:
        return
    tag = headers.get("ETag", "")
    strong = "" if tag.startswith("W/") else tag
    mark = _Mark(wanted.url, strong or headers.get("Last-Modified", ""))
    wanted.mark.write_bytes(msgspec.json.encode(mark))


def _quoted(url: str) -> str:
    """*url* with what a request cannot carry, such as spaces, as a browser writes it."""
    parts = urlsplit(url)
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))
