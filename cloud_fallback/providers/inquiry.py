"""What a server of OpenAI's dialect says about itself: what kind it is, and which models it has.

Only questions without a prompt: GET /v1/models, and on the owner's own network llama.cpp's /props
and Ollama's /api/version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

_OWNERS = {
    "spillover": "spillover",
    "llamacpp": "llama-server",
    "vllm": "vllm",
    "sglang": "sglang",
    "library": "ollama",
    "organization_owner": "lmstudio",
}
"""Kinds of servers by the owner that they give for their models."""

_MAX_NAME_CHARS = 256
_N_CTX = range(16, 2**31)
"""Contexts that are believed."""
_HEADERS = {"llama.cpp": "llama-server"}
"""By the header "server"."""
_OWN_BUILD = "b-spillover"


class Page(Struct, frozen=True):
    """The response to a GET; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None if it is none, or the status is not 200."""
        if self.status != 200:
            return None
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError):
            return None


class ModelFacts(Struct, frozen=True, kw_only=True):
    """One model of a server."""

    name: str
    aliases: tuple[str, ...] = ()
    """Other names that it goes by."""
    n_ctx: int | None = None


class ServerFacts(Struct, frozen=True, kw_only=True):
    """What a server says about itself."""

    status: int
    """Of the list of its models."""
    kind: str | None = None
    """A key of SERVERS; None: not known."""
    models: tuple[ModelFacts, ...] = ()


def inquire(get: Callable[[str], Page], address: str, root: str, *, is_own: bool) -> ServerFacts:
    """Ask the server at *address*, where paths begin with *root*. *is_own*: it is on the owner's
    network, so that it may be asked for pages that only some servers have."""
    page = get(f"{address}{root}/models")
    entries = _entries(page.json())
    kind = _HEADERS.get(page.headers.get("server", "").lower()) or _kind_of(entries)
    if kind is None and is_own:
        parts = urlsplit(address)
        kind = _kind_by_pages(get, f"{parts.scheme}://{parts.netloc}")
    return ServerFacts(status=page.status, kind=kind, models=tuple(map(_model, entries)))


def _entries(listed: Any) -> list[dict[str, Any]]:
    data = listed.get("data") if isinstance(listed, dict) else None
    entries = data if isinstance(data, list) else []
    return [e for e in entries if isinstance(e, dict) and _is_name(e.get("id"))]


def _is_name(found: Any) -> bool:
    """Whether a model's name may go to a terminal and a file: a server may say anything."""
    return isinstance(found, str) and 0 < len(found) <= _MAX_NAME_CHARS and found.isprintable()


def _kind_of(entries: list[dict[str, Any]]) -> str | None:
    owners = {str(entry.get("owned_by")) for entry in entries}
    return _OWNERS.get(owners.pop()) if len(owners) == 1 else None


def _kind_by_pages(get: Callable[[str], Page], origin: str) -> str | None:
    props = get(f"{origin}/props").json()
    if isinstance(props, dict) and "default_generation_settings" in props:
        is_ours = str(props.get("build_info", "")).startswith(_OWN_BUILD)
        return "spillover" if is_ours else "llama-server"
    version = get(f"{origin}/api/version").json()
    return "ollama" if isinstance(version, dict) and "version" in version else None


def _model(entry: dict[str, Any]) -> ModelFacts:
    meta = entry.get("meta")
    told = [entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None]
    n_ctx = next((n for n in told if type(n) is int and n in _N_CTX), None)
    others = entry.get("aliases")
    aliases = tuple(filter(_is_name, others)) if isinstance(others, list) else ()
    return ModelFacts(name=entry["id"], aliases=aliases, n_ctx=n_ctx)
