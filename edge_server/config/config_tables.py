"""The tables of the configuration file: providers, policies, privacy, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.settings import PrivacySettings
from spillover.cloud_fallback.providers.provider import ProviderSettings
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.edge_server.config.allowed_values import allowed_values
from spillover.edge_server.config.settings import CloudSettings
from spillover.edge_server.errors import ConfigError
from spillover.runtime.errors import InvalidRequest

NAMES = "[[provider]], [policy], [privacy] and [budget]"

_TABLES: dict[str, tuple[str, Any]] = {
    "provider": ("providers", tuple[ProviderSettings, ...]),
    "policy": ("policy", PolicySettings),
    "privacy": ("privacy", PrivacySettings),
    "budget": ("budget", BudgetSettings),
}


def take(content: dict[str, Any], path: Path) -> CloudSettings:
    """The tables of *content*, which are taken out of it.

    Raises ConfigError, which names the file, the table and the field.
    """
    found: dict[str, Any] = {}
    for key, (field, kind) in _TABLES.items():
        if key in content:
            found[field] = _converted(content.pop(key), kind, key, path)
    _check_rules(found.get("policy"), path)
    _check_privacy(found.get("privacy"), path)
    settings = CloudSettings(**found)
    names = [provider.name for provider in settings.providers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two [[provider]] tables have the name {name}")
    for name in settings.budget.providers:
        if name not in names:
            raise ConfigError(f"{path}: budget.providers: no [[provider]] has the name {name}")
    return settings


def _check_rules(policy: PolicySettings | None, path: Path) -> None:
    if policy is None or not policy.rules:
        return
    from spillover.cloud_fallback.policy import rules  # loads a library

    try:
        rules.check(policy)
    except InvalidRequest as error:
        raise ConfigError(f"{path}: policy: {error}") from error


def _check_privacy(privacy: PrivacySettings | None, path: Path) -> None:
    if privacy is None:
        return
    from spillover.cloud_fallback.privacy import finder  # loads libraries

    try:
        finder.check(privacy)
    except InvalidRequest as error:
        raise ConfigError(f"{path}: privacy.{error.param}: {error}") from error


def _converted(value: Any, kind: Any, key: str, path: Path) -> Any:
    _refuse_keys(value, key, path)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, found, place = str(error).rpartition(" - at `$")
        where = place.rstrip("`").replace("[...]", "") if found else ""
        choice = ", ".join(allowed_values(kind, place.rstrip("`"))) if found else ""
        advice = f": it is one of {choice}" if choice else ""
        raise ConfigError(f"{path}: {key}{where}: {message if found else error}{advice}") from error


def _refuse_keys(value: Any, key: str, path: Path) -> None:
    """A key in a file that is copied and shown around would not stay one for long."""
    tables = value if isinstance(value, list) else [value]
    for table in tables:
        for name in ("key", "api_key", "token") if isinstance(table, dict) else ():
            if key == "provider" and name in table:
                raise ConfigError(
                    f"{path}: [[provider]] must not hold a key: run `spillover keys set "
                    f"{table.get('name', 'NAME')}`, or name its environment variable in "
                    "key_variable"
                )
