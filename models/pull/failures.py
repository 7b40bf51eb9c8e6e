"""What can go wrong while a model is fetched, in words for its user."""

from __future__ import annotations

import errno
import http.client
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from spillover.models.pull.fetched import PullError

SPARE_BYTES = 256 * 2**20
"""Stays free on the disk after a model was fetched."""

_ANOTHER_FOLDER = (
    "set models_dir (for what goes to Hugging Face's cache: HF_HOME) to a folder on another disk"
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}


class Refused(PullError):
    """A server does not give a file."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(_refusal(url, status))
        self.status = status
        """Of HTTP."""


class Broken(Exception):
    """A transfer ended before its end; another attempt may go on."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        """What the server asks for until then."""


# --- the network --------------------------------------------------------------------------------


def broken(url: str, error: OSError | http.client.HTTPException) -> Broken:
    """What *error* means, with which asking for *url* or reading its body failed. Raises PullError
    where another attempt would fail as well."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise PullError(
            f"{_host(url)} shows a certificate that this device does not trust "
            f"({cause.verify_message}): look at the device's clock; behind a proxy that reads "
            "along, name its certificate in SSL_CERT_FILE"
        ) from error
    if isinstance(error, http.client.InvalidURL):
        raise PullError(f"{shown(url)!r} is no address: {error}") from error
    return Broken(str(cause) or type(cause).__name__)


def proxies() -> dict[str, str]:
    """The proxies of the environment by scheme, as Hugging Face's client and others read it."""
    found = urllib.request.getproxies()
    return {s: found[k] for s in ("http", "https") for k in ("all", s) if found.get(k)}


def refuse_socks(url: str) -> None:
    """Raises PullError where *url* would be asked through a proxy that is none of HTTP."""
    proxy, through = proxies().get(urlsplit(url).scheme, ""), through_proxy(url)
    if through and proxy.lower().startswith("socks"):
        raise PullError(
            f"{_host(url)} would be asked{through}, which speaks SOCKS, and only HTTP proxies are "
            "known: name one, or exclude the host with no_proxy"
        )


def through_proxy(url: str) -> str:
    """For a message: which proxy *url* is asked through; empty: none. Its password is not shown."""
    scheme, host = urlsplit(url).scheme, _host(url)
    proxy = proxies().get(scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return ""
    name = scheme if urllib.request.getproxies().get(scheme) else "all"
    return f", through the proxy {proxy.rpartition('@')[2].rpartition('//')[2]} ({name}_proxy)"


def shown(url: str) -> str:
    """For a message: *url* without its query, which may hold a signature."""
    return url.partition("?")[0][:300]


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _refusal(url: str, status: int) -> str:
    match status:
        case 401:
            advice = "asks for a login. Fetch the file with a browser, and give its path instead"
        case 403:
            advice = (
                "refuses it. Open the address in a browser: it may have expired, or need a login"
            )
        case 404 | 410:
            advice = "has no such file. Look at the address"
        case _:
            advice = f"says {status}. Look at the address"
    return f"{shown(url)}: the server {advice}"


# --- the disk -----------------------------------------------------------------------------------


def need_space(folder: Path, n_bytes: int) -> None:
    """Raises PullError where *n_bytes* more do not fit on the disk of *folder*."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes + SPARE_BYTES:
        missing = n_bytes + SPARE_BYTES - free
        raise PullError(
            f"{folder} has no room for {n_bytes / 1e9:.2f} GB: free {missing / 1e9:.2f} GB there, "
            f"remove a model with `spillover rm`, or {_ANOTHER_FOLDER}"
        )


@contextmanager
def explained_disk(folder: Path) -> Generator[None]:
    """Raises PullError for what the disk of *folder* refuses during the block."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno in _FULL:
            advice = "is full: make room there, and the same command goes on with the rest"
            raise PullError(f"the disk of {place} {advice}. Or {_ANOTHER_FOLDER}") from error
        if error.errno == errno.EFBIG:
            raise PullError(
                f"the file system of {place} takes no file of this size: {_ANOTHER_FOLDER}"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise PullError(
                f"{place} cannot be written ({error.strerror}): change who may write there, or "
                f"{_ANOTHER_FOLDER}"
            ) from error
        raise
