"""Who may ask: Host and Origin checks against web pages, API keys against everybody else."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket

from flask import Request

from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.edge_server.web.origins import Origins
from spillover.edge_server.wire.errors import WireError

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_OPEN_PATHS = frozenset({"/health", "/v1/health", "/"})
_HOST = re.compile(r"(?:(\[[0-9a-f:.]+\])|([^\[\]:/@?#\s]+))(?::[0-9]{0,5})?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether only this device can reach a bind address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host.strip("[]")))
    return False


def check_bind(settings: Settings) -> None:
    """Raise ConfigError for an address that others can reach, if no API key is set, and for what is
    no origin."""
    Origins(settings.allowed_origins)
    for host in settings.hosts:
        if not is_loopback(host) and not settings.api_keys:
            raise ConfigError(
                f"{host} can be reached from other machines: set an API key "
                "(--api-key or SPILLOVER_API_KEY), or bind 127.0.0.1"
            )


def normal_host(value: str) -> str:
    """A Host header's name without port, case and trailing dot; "" if it is not a host."""
    found = _HOST.fullmatch(value.strip().lower())
    return (found[1] or found[2].rstrip(".")) if found else ""


class Gatekeeper:
    """Checks each request before its body is read."""

    def __init__(self, settings: Settings) -> None:
        self._keys = tuple(key.encode() for key in settings.api_keys)
        bound = (host if ":" not in host else f"[{host.strip('[]')}]" for host in settings.hosts)
        is_shared = not all(map(is_loopback, settings.hosts))
        own = (name := socket.gethostname(), f"{name}.local") if is_shared else ()
        self._hosts = frozenset(
            normal_host(host) for host in (*_LOOPBACK_NAMES, *bound, *own, *settings.allowed_hosts)
        )
        self._takes_addresses = is_shared
        self.origins = Origins(settings.allowed_origins)

    def check(self, request: Request) -> str:
        """Who asks: a name for the API key, or "" where none is needed. Raises WireError."""
        self._check_host(request)
        if request.method not in _SAFE_METHODS:
            self._check_origin(request)
            if request.method != "DELETE":  # it has no body, and browsers ask before they send it
                self._check_type(request)
        if self._keys and not _is_open(request):
            return self._check_key(request)
        return ""

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("Host", "")
        name = normal_host(host)
        # A page of another site has a name, which it may lead here; it never has our address.
        if name not in self._hosts and not (self._takes_addresses and _is_address(name)):
            hint = "add it to allowed_hosts if it is yours"
            raise WireError(403, f"the Host header {host[:100]!r} is not allowed here: {hint}")

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("Origin")
        if self.origins.allows(origin):
            return
        site = request.headers.get("Sec-Fetch-Site", "none")
        same = origin is None or origin.partition("://")[2] == request.headers.get("Host")
        if not same or site not in ("none", "same-origin"):
            hint = "add it to allowed_origins if you trust it"
            raise WireError(403, f"the origin {str(origin)[:100]!r} may not use this: {hint}")

    def _check_type(self, request: Request) -> None:
        # Web pages may send other types to any address without asking, but not JSON. They may also
        # send none, but not without their origin; LiteLLM asks Ollama's API like that.
        is_of_a_page = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
        if not request.headers.get("Content-Type") and not is_of_a_page:
            return
        if request.mimetype != "application/json":
            json = "Content-Type: application/json"
            raise WireError(415, f"send the header {json} (curl: -H '{json}')")

    def _check_key(self, request: Request) -> str:
        given = _given_key(request)
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if not any(matches):
            headers = {"WWW-Authenticate": "Bearer"}
            raise WireError(401, "a valid API key is needed", headers=headers)
        return hashlib.blake2b(given.strip().encode(), digest_size=8).hexdigest()


def _is_open(request: Request) -> bool:
    """Whether a path tells nothing: that the server is alive, or the page, which asks for a key."""
    is_open = request.path in _OPEN_PATHS or request.path.startswith("/page/")
    return is_open and request.method in _SAFE_METHODS


def _given_key(request: Request) -> str:
    """The key in a request, as OpenAI's clients send it, or Anthropic's, or Google's."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer
    for header in ("X-Api-Key", "X-Goog-Api-Key"):
        if header in request.headers:
            return request.headers[header]
    is_googles = request.path.startswith(("/v1beta/", "/v1/models"))
    return request.args.get("key", "") if is_googles else ""
