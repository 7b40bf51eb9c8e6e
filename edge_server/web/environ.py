"""A request in WSGI's terms (PEP 3333)."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote, unquote_to_bytes

Scope: TypeAlias = MutableMapping[str, Any]
"""A request in ASGI's terms."""


def path_of(scope: Scope) -> str:
    """The path of a request, without its query."""
    return path_in(scope["raw_path"].split(b"?")[0])


def path_in(target: bytes) -> str:
    """The path in a request's target, of which the query was taken off."""
    return re.sub("/{2,}", "/", unquote(_target(target)[0], "latin-1"))


def environ_of(scope: Scope, body: bytes) -> dict[str, Any]:
    """The WSGI environment of an ASGI scope."""
    server = scope.get("server") or ("127.0.0.1", 0)
    path, host = _target(scope["raw_path"].split(b"?")[0])
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    environ["CONTENT_LENGTH"] = str(len(body))
    if host is not None:
        environ["HTTP_HOST"] = host
    return environ


def _target(raw_path: bytes) -> tuple[bytes, str | None]:
    """The path of a request's target, and the host if the target is a whole URL, as proxies send
    it: that host overrides the header (RFC 9112, section 3.2.2)."""
    scheme, found, rest = raw_path.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return raw_path, None
    host, slash, path = rest.partition(b"/")
    return slash + path or b"/", host.decode("latin-1")
