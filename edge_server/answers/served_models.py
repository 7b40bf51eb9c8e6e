"""The models that requests may name: configured ones, and those that are found on the device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from spillover.cloud_fallback.route.allowed import STRICTEST_FIRST, Fallback
from spillover.cloud_fallback.route.local_side import LocalSide
from spillover.models.entry import ModelEntry
from spillover.runtime.engine import ModelCard, TextEngine
from spillover.runtime.errors import SpilloverError
from spillover.runtime.hosting.hosted_model import HostedModel

MAX_NAME_CHARS = 200
_MOST_FOUND = 1_000
"""Models are found by name, and each that was found is remembered."""


class ServedModel:
    """A model under the names by which requests know it."""

    def __init__(
        self,
        engine: TextEngine,
        side: LocalSide,
        *,
        aliases: tuple[str, ...] = (),
        entry: ModelEntry | None = None,
    ) -> None:
        """*aliases*: other names, as they are listed. *entry*: its file, by whose name it is known
        too, unlisted, where no other model is called so."""
        self.engine = engine
        self.side = side
        """Its part in the routes of answers."""
        self.aliases = aliases
        self.entry = entry
        self.hosted = engine if isinstance(engine, HostedModel) else None
        """For loading and unloading it; None: it is always loaded."""
        self.at_once: TextEngine = engine if self.hosted is None else self.hosted.at_once
        """The engine for those who must not wait: a question raises NotLoaded."""

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def card(self) -> ModelCard | None:
        """Facts of the last time it was loaded."""
        try:
            return self.engine.card
        except SpilloverError:
            return None

    @property
    def is_gone(self) -> bool:
        """Whether its file is no longer there, and it is not loaded."""
        is_absent = self.hosted is not None and not self.hosted.holds_memory
        return is_absent and self.entry is not None and not self.entry.path.exists()

    def is_called(self, name: str) -> bool:
        """Whether requests for *name* are for it, where no other model has that name itself."""
        return self.is_named(name) or (self.entry is not None and name == self.entry.name)

    def is_named(self, name: str) -> bool:
        """Whether *name* was given to it, and not only to its file."""
        return name in (self.name, *self.aliases)


class ServedModels:
    """Any thread may use it."""

    def __init__(
        self,
        default: ServedModel,
        configured: tuple[ServedModel, ...] = (),
        *,
        find: Callable[[str], ModelEntry | None] = lambda name: None,
        make: Callable[[ModelEntry], ServedModel] | None = None,
        names: Callable[[], list[str]] = list,
    ) -> None:
        """*default* answers requests that name no known model. *find* finds the file of another
        one by its name, *make* makes a model of that, and *names* lists those that are found."""
        self.default = default
        self._configured = configured
        self._find = find
        self._make = make
        self._names = names
        self._lock = threading.Lock()
        self._found: dict[str, ServedModel] = {}

    def known(self, name: str) -> ServedModel | None:
        """The model that *name* means, if there is one."""
        if not name or len(name) > MAX_NAME_CHARS:
            return None
        name = name.removesuffix(":latest")
        with self._lock:
            model = self._at_hand(name)
            if model is not None or self._make is None:
                return model
            entry = self._find(name)  # whose name may be written in another way
            if entry is None:
                return None
            model = self._at_hand(entry.name) or self._of_file(entry)
            if model is None and len(self._found) < _MOST_FOUND:
                model = self._found_twice(entry) or self._make(entry)
                self._found[entry.name] = model
            return model

    def _at_hand(self, name: str) -> ServedModel | None:
        own = (self.default, *self._configured)
        named = next((model for model in own if model.is_named(name)), None)
        model = named or _strictest(model for model in own if model.is_called(name))
        if model is not None:
            return model
        found = self._found.get(name)
        if found is not None and found.is_gone:
            del self._found[name]  # it may have been pulled again
            return None
        return found

    def _of_file(self, entry: ModelEntry) -> ServedModel | None:
        """A table protects its model, by whatever name a request finds it."""
        own = (self.default, *self._configured)
        return _strictest(model for model in own if model.entry and model.entry.is_file_of(entry))

    def _found_twice(self, entry: ModelEntry) -> ServedModel | None:
        """A pulled model may have two names: that is no reason to load it twice."""
        same = (m for m in self._found.values() if m.entry and m.entry.is_file_of(entry))
        return next((model for model in same if not model.is_gone), None)

    def asked(self, name: str) -> ServedModel:
        """The model that answers a request for *name*."""
        return self.known(name) or self.default

    def all(self) -> list[ServedModel]:
        """The default one first."""
        models = {model.name: model for model in (self.default, *self._configured)}
        for name in self._names():
            if (model := self.known(name)) is not None:
                models.setdefault(model.name, model)
        return list(models.values())


def _strictest(models: Iterable[ServedModel]) -> ServedModel | None:
    """The first of those that let the least leave the device: nobody has said which of several
    tables of one file is meant."""
    return min(models, key=lambda model: _strictness(model.side.routing.fallback), default=None)


def _strictness(fallback: Fallback | None) -> int:
    return STRICTEST_FIRST.index(fallback or "never")
