"""Fetches a file from an address, and goes on where an earlier attempt stopped."""

from __future__ import annotations

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

from msgspec import Struct

from spillover.models.entry import sha256_of
from spillover.models.pull.failures import (
    Broken,
    Refused,
    broken,
    need_space,
    proxies,
    refuse_socks,
    shown,
    through_proxy,
)
from spillover.models.pull.fetched import Progress, PullError
from spillover.models.pull.incomplete import IncompleteFile, Origin
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


class _Wanted(Struct, frozen=True, kw_only=True):
    """A file to be fetched."""

    url: str
    size_bytes: int
    """0: unknown"""
    sha256: str
    """Empty: unknown"""
    headers: Mapping[str, str]
    part: IncompleteFile


def download(
    url: str,
    target: Path,
    progress: Progress,
    *,
    size_bytes: int = 0,
    sha256: str = "",
    headers: Mapping[str, str] | None = None,
) -> str:
    """Fetch *url* into *target*, which appears when it is complete and has the digest *sha256*, if
    that is known; return its digest. *headers* are sent, but those of a login to no other host.

    Until then target.incomplete holds what has come, also after a failure: the next call goes on
    there. Without a digest it does so only if the server still has the same file, and a *target*
    that is not `settled` counts as a beginning. Raises PullError, OSError.
    """
    refuse_socks(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = IncompleteFile(target)
    if not sha256:
        part.take_back()
    elif target.is_file():
        if sha256_of(target) == sha256:
            return sha256
        target.unlink()
    wanted = _Wanted(
        url=_quoted(url), size_bytes=size_bytes, sha256=sha256, headers=headers or {}, part=part
    )
    is_resumed = part.n_bytes > 0
    found = _transferred(wanted, progress)
    if sha256 and found != sha256 and is_resumed:  # what was there was no beginning of it
        part.forget()
        found = _transferred(wanted, progress)
    if sha256 and found != sha256:
        part.forget()
        raise PullError(
            f"{shown(url)} is damaged, or another file than it should be: its sha256 is "
            f"{found[:16]}…, not {sha256[:16]}…. Nothing was kept"
        )
    part.publish()
    return found


# --- attempts -----------------------------------------------------------------------------------


def _transferred(wanted: _Wanted, progress: Progress) -> str:
    """The digest of what came. Asks until all has come, or until nothing comes any more."""
    opener = _opener()
    n_breaks = n_restarts = 0
    while True:
        before = wanted.part.n_bytes
        try:
            _attempt(opener, wanted, progress)
            return wanted.part.sha256()
        except Broken as error:
            n_restarts += wanted.part.n_bytes < before
            n_breaks = 1 if wanted.part.n_bytes > before else n_breaks + 1
            if n_breaks + n_restarts >= MOST_BREAKS:
                raise _given_up(wanted, error) from error
            pause_s = max(min(2 ** (n_breaks - 1), 10) / 4, error.wait_s)
            time.sleep(min(pause_s, LONGEST_WAIT_S))


def _given_up(wanted: _Wanted, error: Broken) -> PullError:
    n_held, url = wanted.part.n_bytes, wanted.url
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
            is_all = error.headers.get("Content-Range") == f"bytes */{n_held}"
            if is_all and 0 < n_held == wanted.part.n_bytes:
                return
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
        need_space(wanted.part.path.parent, max(total - n_held, 0))
        _append(response, wanted, n_held, total, progress)


def _append(
    response: http.client.HTTPResponse,
    wanted: _Wanted,
    n_held: int,
    total: int,
    progress: Progress,
) -> None:
    origin = None if wanted.sha256 else Origin(wanted.url, _validator(response.headers))
    with wanted.part.appending(n_held, origin) as write:
        for chunk in _chunks(response, wanted.url, total - n_held if total else None):
            write(chunk)
            n_held += len(chunk)
            progress(n_held, total)
    if total and n_held != total:
        raise Broken(f"it ended after {n_held} of {total} bytes")


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
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies()), _Redirects, tls)


def _refused(wanted: _Wanted, error: urllib.error.HTTPError, n_held: int) -> Broken | Refused:
    if error.code == 416 and n_held:  # longer than the file is now: not its beginning
        wanted.part.forget()
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
            wanted.part.forget()
            raise Broken("the server sent another part of the file than was asked for")
        return n_held, int(match["total"])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else 0


def _held(wanted: _Wanted) -> tuple[int, dict[str, str]]:
    """The bytes that are here already, and the headers that ask for the rest of the same file."""
    if wanted.sha256:
        n_held = wanted.part.n_bytes
        if 0 < n_held <= (wanted.size_bytes or n_held):
            return n_held, {"Range": f"bytes={n_held}-"}  # the digest will tell
        return 0, {}
    origin, n_held = wanted.part.known()
    if origin is None or origin.url != wanted.url or not origin.validator or not n_held:
        return 0, {}
    return n_held, {"Range": f"bytes={n_held}-", "If-Range": origin.validator}


def _validator(headers: Message) -> str:
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _quoted(url: str) -> str:
    """*url* with what a request cannot carry, such as spaces, as a browser writes it."""
    parts = urlsplit(url)
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return urlunsplit(parts._replace(path=path, query=query, fragment=""))
