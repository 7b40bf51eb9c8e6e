"""The running endpoint that a client is to use, as it describes itself."""

from __future__ import annotations

from contextlib import closing

from msgspec import Struct

from spillover.cloud_fallback.errors import AuthFailed, NetworkFailed, ProviderError
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.api_client import ApiClient
from spillover.cloud_fallback.providers.build import dialect_of
from spillover.cloud_fallback.providers.credentials.credentials import Credentials, Key
from spillover.cloud_fallback.providers.credentials.secret import Secret
from spillover.cloud_fallback.providers.inquiry import ServerFacts
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.edge_server.commands.connect.target import ANY_MODEL, provider_at
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.runtime.errors import SpilloverError

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A server that listens on all addresses is reached by this one."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where a client asks, and for what."""

    url: str
    """Without a path, and without a slash at its end."""
    model: str
    n_ctx: int | None
    """Tokens of one conversation, prompt and answer together; None: not known."""
    key: str = ""
    """Empty: the endpoint wants none."""

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def token(self) -> str:
        """The key, or a word for clients that do not start without one."""
        return self.key or "unused"


def url_of(settings: Settings) -> str:
    """Where a server with these settings listens. Raises ConfigError."""
    if not settings.port:
        raise ConfigError("port is 0, so the address is not known: give it with --url")
    host = settings.hosts[0].strip("[]")
    host = _EVERYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def find_endpoint(url: str, key: str, model: str) -> Endpoint:
    """The endpoint at *url*. An empty *model* is the one that it serves.

    Raises SpilloverError: that is no address, nobody listens there, it is no Spillover, it refuses
    the key, or it lists no such model.
    """
    server = provider_at(url, name="spillover", dialect="openai", model=ANY_MODEL)
    if not server.base_url:  # the key is none of its
        raise ConfigError(f"{url} is a company: give the address of a Spillover server with --url")
    url = server.address.removesuffix("/v1")
    facts = _facts(server, url, key)
    if facts is None or facts.kind != "spillover" or not facts.models:
        kind = facts.kind if facts is not None and facts.kind else "another program"
        raise SpilloverError(f"{url} is not Spillover but {kind}: give the address with --url")
    models = facts.models
    by_name = {alias: found for found in models for alias in found.aliases}
    by_name |= {found.name: found for found in models}
    model = model or models[0].name
    if model not in by_name:
        names = ", ".join(found.name for found in models)
        raise SpilloverError(f"{url} has no model {model!r}; it has {names}")
    return Endpoint(url=url, model=model, n_ctx=by_name[model].n_ctx, key=key)


def _facts(server: ProviderSettings, url: str, key: str) -> ServerFacts | None:
    dialect = dialect_of(server)
    credentials = (
        Key(server.name, Secret(key), dialect.key_headers) if key else Credentials(server.name)
    )
    with closing(Http()) as http:
        try:
            return ApiClient(server, dialect, http, credentials).contact()
        except NetworkFailed as error:
            raise SpilloverError(
                f"no endpoint at {url} ({error.cause}): start one in another terminal with "
                "`spillover serve MODEL`, or add --serve MODEL"
            ) from error
        except AuthFailed as error:
            raise SpilloverError(
                f"{url} wants an API key: set SPILLOVER_API_KEY, or give --api-key-file"
            ) from error
        except ProviderError as error:
            raise SpilloverError(f"{url}: {error.cause}") from error
