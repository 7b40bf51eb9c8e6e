"""What differs between the models that one server serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta, Struct

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.allowed import strictest
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.runtime.options import EngineOptions

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table [[local_model]]. It may also hold settings of the engine, and some of the cloud's;
    they count for this model alone."""

    name: Name
    """What requests call it."""
    model: str = ""
    """Name of `spillover models`, file or folder; empty: the same as *name*."""
    aliases: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    preload: bool = False
    """Load it when the server starts."""
    pinned: bool = False
    """Never unload it to make room, nor after a time."""
    keep_alive_s: Annotated[float, Meta(ge=-1, le=315_360_000)] | None = None
    """None: as `model_keep_alive_s`."""
    options: dict[str, Any] = {}
    """Checked values of settings by their names."""
    policy: PolicySettings | None = None
    """The table [local_model.policy], with [policy] for what it leaves open."""
    policy_given: frozenset[str] = frozenset()
    """The keys that either of them has."""

    @property
    def file(self) -> str:
        """The name or path by which its file is found."""
        return self.model or self.name

    def under(self, above: Mapping[str, Any]) -> Self:
        """The same, but for settings that the command line or the environment decide, with values
        *above*. Neither lifts what a table forbids: of `fallback` the stricter counts."""
        left = {name: value for name, value in self.options.items() if name not in above}
        if "fallback" in self.options and "fallback" in above:
            left["fallback"] = strictest(self.options["fallback"], above["fallback"])
        return msgspec.structs.replace(self, options=left)

    def engine(self, base: EngineOptions) -> EngineOptions:
        """*base* with this model's own settings."""
        names = EngineOptions.__struct_fields__
        own = {name: value for name, value in self.options.items() if name in names}
        return msgspec.structs.replace(base, **own)

    def cloud(self, base: CloudSettings) -> CloudSettings:
        """*base* with this model's own settings."""
        own = {name: value for name, value in self.options.items() if name in _OF_THE_CLOUD}
        if "handoff_mode" in self.options:
            own["route"] = msgspec.structs.replace(base.route, mode=self.options["handoff_mode"])
        if self.policy is not None:
            own["policy"] = self.policy
        return msgspec.structs.replace(base, **own)


_OF_THE_CLOUD = frozenset({"fallback", "prefer"})
OPTION_NAMES = frozenset(EngineOptions.__struct_fields__) | _OF_THE_CLOUD | {"handoff_mode"}
"""Settings that may be given for one model."""
