"""The models of `spillover serve`: the configured ones, the bundled ones, and those that were
pulled."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from spillover.cloud_fallback.route.router import Router
from spillover.edge_server.answers.served_models import ServedModel, ServedModels
from spillover.edge_server.commands.engines.job_process import LoadConversion
from spillover.edge_server.commands.loading import (
    default_name,
    default_settings,
    model_entry,
    model_store,
)
from spillover.edge_server.commands.output import print_note
from spillover.edge_server.config.catalogue_policy import check_catalogue, cloud_settings
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.config.settings import Settings
from spillover.models import catalogue
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.runtime.errors import ModelError
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.memory import gpu_memory_in_all, needed_bytes
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.residence import ModelSpec, Preparation
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions


class Hosting:
    """Makes the models of a host from the settings."""

    def __init__(self, host: ModelHost, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._store = model_store(settings)
        self._own = default_settings(settings)
        """The default model's table."""
        self._default_entry = model_entry(settings)
        name = default_name(settings, self._default_entry)
        self.default = self._hosted(name, self._default_entry, self._own, is_default=True)

    def served(self, router: Router) -> ServedModels:
        """All models, with their part in the routes of *router*."""
        own = self._own
        default = ServedModel(
            self.default,
            router.local,
            aliases=(*self._settings.aliases, *self._own_names()),
            entry=self._default_entry,
        )
        others = [each for each in self._settings.models if each is not own]
        configured = tuple(self._configured(each, router) for each in others)
        for each, model in zip(others, configured, strict=True):
            if each.preload and model.hosted is not None:
                model.hosted.preload()
        return ServedModels(
            default,
            configured,
            find=self._found,
            make=partial(self._made, router),
            names=self._names,
        )

    def _own_names(self) -> tuple[str, ...]:
        """The names in the default model's table, other than the one that it has."""
        names = () if self._own is None else (self._own.name, *self._own.aliases)
        return tuple(name for name in names if name != self.default.name)

    def _configured(self, own: ModelSettings, router: Router) -> ServedModel:
        entry = self._entry(own.file)
        cloud = cloud_settings(self._settings, entry, own)
        hosted = self._hosted(own.name, entry, own)
        side = router.add(hosted, cloud)
        return ServedModel(hosted, side, aliases=own.aliases, entry=entry)

    def _found(self, name: str) -> ModelEntry | None:
        """A bundled or pulled model: never a path, which is not for a request to choose."""
        try:
            if name in catalogue.bundled_names():
                return catalogue.find(name)
            return self._store.find(name)
        except CatalogueError:
            return None

    def _made(self, router: Router, entry: ModelEntry) -> ServedModel:
        cloud = cloud_settings(self._settings, entry, None)
        hosted = self._hosted(entry.name, entry, None)
        side = router.add(hosted, cloud)
        return ServedModel(hosted, side, entry=entry)

    def _names(self) -> list[str]:
        pulled = [model.name for model in self._store.all() if model.is_complete]
        return [*catalogue.bundled_names(), *pulled]

    def _entry(self, name: str) -> ModelEntry:
        try:
            return catalogue.find(name, self._store)
        except CatalogueError as error:
            raise ModelError(str(error)) from error

    def _hosted(
        self, name: str, entry: ModelEntry, own: ModelSettings | None, *, is_default: bool = False
    ) -> HostedModel:
        settings = self._settings
        options = (settings.engine if own is None else own.engine(settings.engine)).settled()
        keep_alive_s = own.keep_alive_s if own is not None else None
        if keep_alive_s is None:
            keep_alive_s = settings.model_keep_alive_s
        path = entry.path.absolute()
        conversion = LoadConversion(path, options)
        spec = ModelSpec(
            name=name,
            preparation=Preparation(
                what="the conversion of its file for ONNX Runtime",
                is_needed=conversion.is_needed,
                make=conversion.make,
                patience_s=options.load_timeout_s,
            ),
            start=partial(_start, entry, options, name),
            needed_bytes=partial(needed_bytes, path, options),
            keep_alive_s=None if keep_alive_s < 0 else keep_alive_s,
            is_pinned=own is not None and own.pinned,
            # What the owner starts the server with is tried, whatever an estimate says.
            must_fit=not is_default or settings.models_memory_mb is not None,
            max_waiting=options.max_queue + (options.n_parallel or 1),
            max_background=options.max_background,
        )
        return HostedModel(self._host, self._host.add(spec))

    @contextmanager
    def router(self) -> Generator[Router]:
        """The router of all models' answers."""
        common = self._settings.cloud
        check_catalogue(self._settings)
        own = cloud_settings(self._settings, self._default_entry, self._own)
        others = (common, *(each.cloud(common) for each in self._settings.models))
        with Router.open(self.default, own, os.environ, others=others) as router:
            yield router


def _start(entry: ModelEntry, options: EngineOptions, name: str, most_bytes: int) -> LocalEngine:
    if entry.note:
        print_note(f"spillover: {entry.note}")
    return LocalEngine(entry.path, options, name=name, most_bytes=most_bytes)


@contextmanager
def hosting(settings: Settings) -> Generator[Hosting]:
    """While the block runs, models are loaded as they are needed. Raises ModelError."""
    most = settings.models_memory_mb
    budget_bytes = None if most is None else int(most * 2**20)
    gpu = gpu_memory_in_all(settings.engine.cache_dir)
    with ModelHost(budget_bytes=budget_bytes, gpu=gpu) as host:
        yield Hosting(host, settings)
