"""What a user names: a company, an address, or a provider that is configured already."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from spillover.cloud_fallback.http.near import is_near
from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.settings import ProviderSettings, is_loopback
from spillover.edge_server.errors import ConfigError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ANY_MODEL = "?"
"""Stands for the model until it is chosen."""


def provider_at(
    target: str, *, name: str = "", dialect: str = "", model: str = "", key_variable: str = ""
) -> ProviderSettings:
    """The provider that *target* names; empty arguments are left to it. Raises ConfigError."""
    if name and not re.fullmatch(_NAME, name):
        raise ConfigError(f"{name!r} is no name of a provider: use letters, digits, ., _ and -")
    company = COMPANIES.get(target)
    try:
        urlsplit(target if "://" in target else f"//{target}")
    except ValueError as error:  # such as a bracket without its partner
        raise ConfigError(f"{target!r} is no address: {error}") from error
    fields: dict[str, Any] = {"model": model or (company.first_model if company else "")}
    if company is not None:
        fields |= {"name": name or target, "dialect": dialect or target}
    else:
        url = _url(target)
        found = dialect or _dialect_at(url)
        fields |= {"name": name or _name(url), "dialect": found, "base_url": url}
        if found == "openai" and not urlsplit(url).path.strip("/"):
            fields["base_url"] = f"{url.rstrip('/')}/v1"
    fields |= {"model": fields["model"] or ANY_MODEL, "key_variable": key_variable or None}
    try:
        return msgspec.convert(fields, ProviderSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{target}: {error}") from error


def _url(target: str) -> str:
    """An address with its scheme: http on the owner's own network, https elsewhere."""
    if "://" in target:
        return target
    host = urlsplit(f"//{target}").hostname or ""
    if not re.fullmatch(r"[A-Za-z0-9.\-]+|[0-9a-fA-F:.]+", host) or not re.search(r"[.:]", target):
        known = ", ".join(COMPANIES)
        raise ConfigError(
            f"{target!r} is neither a company ({known}) nor an address like "
            "http://192.168.1.20:8000"
        )
    return f"{'http' if is_near(host) else 'https'}://{target}"


def _dialect_at(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return next((name for name, company in COMPANIES.items() if company.owns(host)), "openai")


def _name(url: str) -> str:
    """A name for the provider at *url*: an IP address as it is, else the first part of the host."""
    host = urlsplit(url).hostname or "provider"
    if ":" in host and is_loopback(host):
        return "localhost"  # ::1 would leave only its 1
    is_address = re.fullmatch(r"[0-9.]+", host) is not None or ":" in host
    found = host if is_address else host.removeprefix("api.").split(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]", "-", found).strip("-._")[:64] or "provider"
