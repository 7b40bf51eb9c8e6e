"""What the catalogue says of a model, merged under what its owner has set."""

from __future__ import annotations

import msgspec

from spillover.cloud_fallback.policy.settings import ModelFacts, PolicySettings
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.models import catalogue
from spillover.models.catalogue import Listed
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.runtime.errors import InvalidRequest


def cloud_settings(
    settings: Settings, entry: ModelEntry, own: ModelSettings | None
) -> CloudSettings:
    """The settings that count for the answers of the model *entry*, whose table is *own*.

    Raises ConfigError where the catalogue's are wrong.
    """
    base, given = settings.cloud, settings.policy_given
    if own is not None:
        base, given = own.cloud(base), own.policy_given
    if base.fallback == "never":  # nothing is handed over
        return base
    try:
        listed = catalogue.listed_as(entry)
    except CatalogueError as error:
        raise ConfigError(str(error)) from error
    return base if listed is None else _merged(base, given, *listed)


def check_catalogue(settings: Settings) -> None:
    """Raise ConfigError where a table of the catalogue is wrong, whichever model it is of: later,
    it would be found by a request."""
    if settings.cloud.fallback == "never":
        return
    try:
        models = catalogue.listed_models()
    except CatalogueError as error:
        raise ConfigError(str(error)) from error
    for name, listed in models.items():
        _merged(settings.cloud, settings.policy_given, name, listed)


def _merged(base: CloudSettings, given: frozenset[str], name: str, listed: Listed) -> CloudSettings:
    """*base* with what the table *name* says, but for the keys *given*. Raises ConfigError."""
    facts = ModelFacts(languages=listed.languages, can_call_tools=listed.tools)
    defaults = {key: value for key, value in listed.policy.items() if key not in given}
    try:
        policy = msgspec.convert(msgspec.to_builtins(base.policy) | defaults, PolicySettings)
        return msgspec.structs.replace(base, policy=policy, facts=facts).checked()
    except (msgspec.ValidationError, InvalidRequest) as error:
        raise ConfigError(
            f"the catalogue's table [{name}.policy] cannot be used: {error}: correct it in "
            "models.toml"
        ) from error
