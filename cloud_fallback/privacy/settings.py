"""What is taken out of a request before it leaves the device."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

Kind: TypeAlias = Literal[
    "email", "phone", "card", "iban", "ip_address", "mac_address", "national_id", "secret"
]
"""What is found by itself. Secrets are keys, tokens, passwords and PINs."""

KINDS: tuple[Kind, ...] = get_args(Kind)
PHONE_REGIONS = ("US", "CA", "GB", "IE", "DE", "AT", "CH", "FR", "ES", "IT", "NL", "IN", "AU", "JP")


class UserPattern(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pattern of the user's own; what it matches is replaced by [NAME_1], [NAME_2], …"""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z]+(_[A-Za-z]+)*$", max_length=24)]
    pattern: Annotated[str, Meta(min_length=1, max_length=1000)]
    """A regular expression as RE2 takes it; its first group, if there is one, is what is taken
    out. "(?i)" at its beginning ignores case."""


class PrivacySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """*kinds* that are looked for, and the user's own *patterns*."""

    kinds: tuple[Kind, ...] = KINDS
    patterns: Annotated[tuple[UserPattern, ...], Meta(max_length=64)] = ()
    phone_regions: tuple[Annotated[str, Meta(pattern="^[A-Z]{2}$")], ...] = PHONE_REGIONS
    """Countries (ISO 3166) whose numbers are known without their country code."""
    allow: Annotated[tuple[str, ...], Meta(max_length=1000)] = ()
    """Texts that may leave as they are, such as a support address."""
