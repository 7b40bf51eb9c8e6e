"""A [[provider]] table of the configuration file: one model of one company, or of a bigger machine
on the LAN."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from spillover.cloud_fallback.http.near import is_near
from spillover.cloud_fallback.providers.companies import (
    COMPANIES,
    SERVERS,
    Company,
    MaxTokensField,
    Server,
    server_at,
)
from spillover.cloud_fallback.providers.credentials.secret import is_header_text
from spillover.cloud_fallback.providers.vision import sees_images
from spillover.cloud_fallback.spending.prices import FREE, Prices

Seconds = Annotated[float, Meta(gt=0, le=3_600)]
Text = Annotated[str, Meta(min_length=1, max_length=512)]

_KEY_HEADERS = frozenset(
    ("authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie")
)


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The only place of these defaults.

    Raises ValueError (msgspec.convert: ValidationError) for values that do not go together.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    """What it is called in the configuration, the events and the records."""
    dialect: str
    """A key of COMPANIES."""
    model: Text
    base_url: str = ""
    """Empty: the company's own."""
    is_local_network: bool | None = None
    """A machine of the owner's: tried before the cloud, free, and without a key if it needs none.
    None: told by the address, see is_near()."""
    server: str | None = None
    """Which OpenAI-compatible server it is, a key of SERVERS; None: told by the address, or by the
    server itself."""
    api_version: str | None = None
    """Azure's; None: its v1 paths."""
    deployment: str | None = None
    """Azure's name of the model; None: the model's own."""
    project: str | None = None
    """Vertex AI's; None: express mode, which needs an API key."""
    region: str = ""
    """Vertex AI's and Bedrock's; empty: "global" and "us-east-1"."""
    chat_template: str | None = None
    """For TGI's own generate_stream, which takes plain text: the model's template."""
    key_variable: str | None = None
    """The environment variable with the key; None: the company's usual ones."""
    token_command: tuple[Text, ...] = ()
    """A program that prints a bearer token, such as gcloud auth print-access-token."""
    extra_headers: dict[str, str] = {}
    max_tokens_field: MaxTokensField | None = None
    reasoning_reserve: Annotated[int, Meta(ge=0, le=1_048_576)] = 0
    """Tokens added to a request's own limit, for reasoning that is not shown."""
    n_ctx: Annotated[int, Meta(ge=1)] = 128_000
    """The model's context, for choosing a provider."""
    vision: bool | None = None
    """Whether the model sees images; None: told by its name."""
    prices: Prices | None = None
    connect_timeout_s: Seconds = 5.0
    first_text_timeout_s: Seconds = 60.0
    """From the request to the first text, reasoning or tool call."""
    idle_timeout_s: Seconds = 30.0
    """Between two events. A provider that filters content may well pause for some seconds."""
    total_timeout_s: Seconds = 900.0
    """For a whole answer."""

    def __post_init__(self) -> None:
        _check_known("dialect", self.dialect, COMPANIES)
        if self.server is not None:
            _check_known("server", self.server, SERVERS)
        if not self.address:
            raise ValueError(f"the dialect {self.dialect} needs a base_url")
        _check_address(self.address, is_near=self.is_own_machine)
        for header, value in self.extra_headers.items():
            _check_header(header, value)

    @property
    def company(self) -> Company:
        """Whose API it is."""
        return COMPANIES[self.dialect]

    @property
    def address(self) -> str:
        """The base URL, without a slash at its end."""
        return self.base_url.rstrip("/") or self.company.address(self.location)

    @property
    def location(self) -> str:
        """The region, or the default one."""
        return self.region or self.company.default_region

    @property
    def known_prices(self) -> Prices | None:
        """What its tokens cost: the user's own machine is free unless it has prices."""
        return self.prices or (FREE if self.is_own_machine else None)

    @property
    def sees_images(self) -> bool:
        """Whether the model sees images. TGI's generate_stream takes text alone."""
        if self.company.wire == "tgi":
            return False
        return sees_images(self.model) if self.vision is None else self.vision

    @property
    def is_own_machine(self) -> bool:
        """Whether it is on this device or on the LAN."""
        near = self.is_local_network
        return is_near(_host(self.address)) if near is None else near

    @property
    def root(self) -> str:
        """What all paths after the address begin with."""
        root = self.company.root
        return "" if urlsplit(self.address).path.endswith(root) else root

    @property
    def server_kind(self) -> Server:
        """The server, where the wire format is OpenAI's."""
        if self.server is not None:
            return SERVERS[self.server]
        if _host(self.address) == _host(self.company.address(self.location)):
            return self.company.server
        return self.company.server_elsewhere or server_at(self.address)

    @property
    def must_stay_near(self) -> bool:
        """Whether only its name says that it is on the LAN, so that where the name leads decides
        whether anything is sent there unencrypted."""
        is_told = self.is_local_network is None and self.is_own_machine
        return is_told and urlsplit(self.address).scheme == "http"

    @property
    def is_server_unknown(self) -> bool:
        """Whether neither these settings nor the address tell which server it is."""
        is_told = self.server is not None or self.company.wire != "openai"
        at_company = _host(self.address) == _host(self.company.address(self.location))
        return not (is_told or at_company) and self.server_kind is SERVERS["other"]

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The environment variables that may hold its key, the best one first."""
        if self.key_variable is not None:
            return (self.key_variable,)
        if not self.is_at_home or self.needs_token:
            return ()
        return self.company.key_variables

    @property
    def needs_token(self) -> bool:
        """Whether Google's tokens let it in, not a key: so it is with a project of Vertex AI."""
        return self.company.without_key == "google" and self.project is not None

    @property
    def is_direct(self) -> bool:
        """Whether it is reached without a proxy: a machine on the LAN, or this device."""
        return self.is_own_machine or is_loopback(_host(self.address))

    @property
    def is_at_home(self) -> bool:
        """Whether the address is the company's own, or this device."""
        host = _host(self.address)
        return is_loopback(host) or self.company.owns(host)


def is_loopback(host: str) -> bool:
    """Whether *host* is this device."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host(address: str) -> str:
    return urlsplit(address).hostname or ""


def _check_known(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{field} {name!r} is not known: use one of {', '.join(sorted(known))}")


def _check_header(header: str, value: str) -> None:
    if header.lower() in _KEY_HEADERS:
        raise ValueError(
            f"extra_headers must not hold {header}: name the key's variable in key_variable"
        )
    if not re.fullmatch(r"[A-Za-z0-9-]+", header) or not is_header_text(value):
        raise ValueError(f"extra_headers: {header!r} is not a header of printable ASCII")


def _check_address(address: str, *, is_near: bool) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"base_url {address!r} must be like https://host or http://host:port")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("base_url must not hold a user, a query or a fragment")
    if parts.scheme == "http" and not (is_near or is_loopback(parts.hostname)):
        raise ValueError(
            f"base_url {address} would send conversation and key unencrypted: use https, or set "
            "is_local_network = true if it is a machine on the LAN after all"
        )
