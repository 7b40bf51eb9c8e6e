"""What the user says about a cloud provider, or about a bigger machine next door."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from spillover.cloud_fallback.providers.credentials.header_text import is_header_text
from spillover.cloud_fallback.providers.dialects.openai_servers import MaxTokensField, ServerName
from spillover.cloud_fallback.providers.dialects.registry import DialectName
from spillover.cloud_fallback.spending.prices import Prices

Seconds = Annotated[float, Meta(gt=0, le=3_600)]
Text = Annotated[str, Meta(min_length=1, max_length=512)]

BASE_URLS: dict[DialectName, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "cohere": "https://api.cohere.com",
    "huggingface": "https://router.huggingface.co/v1",
}
"""For Vertex AI and Bedrock it follows from the region; Azure and TGI have none in common."""

OWN_HOSTS: dict[DialectName, str] = {
    "openai": r"(.+\.)?api\.openai\.com",
    "azure": r".+\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us)",
    "anthropic": r"api\.anthropic\.com",
    "gemini": r"generativelanguage\.googleapis\.com",
    "vertex": r"([a-z0-9-]+-)?aiplatform\.googleapis\.com",
    "cohere": r"api\.cohere\.(com|ai)",
    "huggingface": r"router\.huggingface\.co|.+\.endpoints\.huggingface\.cloud",
    "bedrock": r"bedrock-runtime(-fips)?\.[a-z]+(-[a-z]+)+-\d\.amazonaws\.com"
    r"|bedrock-mantle\.[a-z0-9-]+\.api\.aws",
}
"""Where a key that was not given for this very provider may be sent."""

_KEY_HEADERS = frozenset(
    ("authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie")
)


class ProviderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[provider]] table of the configuration file; the only place of these defaults.

    Raises ValueError (msgspec.convert: ValidationError) for values that do not go together.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    """What it is called in the configuration, the events and the records."""
    dialect: DialectName
    model: Text
    base_url: str = ""
    """Empty: the company's own."""
    is_local_network: bool = False
    """A machine of one's own: tried before the cloud, without a key if it needs none."""
    server: ServerName | None = None
    """Which OpenAI-compatible server it is; None: guessed from the address."""
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
    """The environment variable with the key; None: by the provider's own convention."""
    token_command: tuple[Text, ...] = ()
    """A program that prints a bearer token, such as gcloud auth print-access-token."""
    extra_headers: dict[str, str] = {}
    max_tokens_field: MaxTokensField | None = None
    reasoning_reserve: Annotated[int, Meta(ge=0, le=1_048_576)] = 0
    """Tokens on top of a request's own limit, for what the model thinks unseen."""
    n_ctx: Annotated[int, Meta(ge=1)] = 128_000
    """The model's context, for choosing a provider."""
    prices: Prices | None = None
    connect_timeout_s: Seconds = 5.0
    first_text_timeout_s: Seconds = 60.0
    """From the request to the first text, thought or tool call."""
    idle_timeout_s: Seconds = 30.0
    """Between two events. A provider that filters content may well pause for some seconds."""
    total_timeout_s: Seconds = 900.0
    """For a whole answer."""

    def __post_init__(self) -> None:
        if self.dialect in ("azure", "tgi") and not self.base_url:
            raise ValueError(f"the dialect {self.dialect} needs a base_url")
        _check_address(self.address, self.is_local_network)
        for header, value in self.extra_headers.items():
            _check_header(header, value)

    @property
    def address(self) -> str:
        """The base address, without a slash at its end."""
        if self.base_url:
            return self.base_url.rstrip("/")
        if self.dialect == "vertex":
            own = "" if self.location == "global" else f"{self.location}-"
            return f"https://{own}aiplatform.googleapis.com"
        if self.dialect == "bedrock":
            return f"https://bedrock-runtime.{self.location}.amazonaws.com"
        return BASE_URLS[self.dialect]

    @property
    def location(self) -> str:
        """The region, or the default one."""
        return self.region or ("us-east-1" if self.dialect == "bedrock" else "global")

    @property
    def is_direct(self) -> bool:
        """Whether it is reached without a proxy: a machine of one's own, or this device."""
        return self.is_local_network or is_loopback(urlsplit(self.address).hostname or "")

    @property
    def is_at_home(self) -> bool:
        """Whether the address is the company's own, or this device."""
        host = urlsplit(self.address).hostname or ""
        own = OWN_HOSTS.get(self.dialect)
        return is_loopback(host) or (own is not None and bool(re.fullmatch(own, host)))


def is_loopback(host: str) -> bool:
    """Whether *host* is this device."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_header(header: str, value: str) -> None:
    if header.lower() in _KEY_HEADERS:
        raise ValueError(
            f"extra_headers must not hold {header}: name the key's variable in key_variable"
        )
    if not re.fullmatch(r"[A-Za-z0-9-]+", header) or not is_header_text(value):
        raise ValueError(f"extra_headers has {header!r}, which is no header of printable ASCII")


def _check_address(address: str, is_local_network: bool) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"base_url {address!r} must be like https://host or http://host:port")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("base_url must not hold a user, a query or a fragment")
    if parts.scheme == "http" and not (is_local_network or is_loopback(parts.hostname)):
        raise ValueError(
            f"base_url {address} would send conversation and key unencrypted: use https, or set "
            "is_local_network for a machine of your own"
        )
