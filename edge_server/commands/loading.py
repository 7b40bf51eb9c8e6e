"""Start the local engine of a command, with a note if the user has to wait."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from spillover.cloud_fallback.route.allowed import STRICTEST_FIRST
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.commands.engines.job_process import LoadConversion
from spillover.edge_server.commands.output import print_note
from spillover.edge_server.config.catalogue_policy import cloud_settings
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.config.setting_type import expanded
from spillover.edge_server.config.settings import Settings
from spillover.models import catalogue
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.store import ModelStore, PulledModel
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ModelError
from spillover.runtime.hosting.memory import free_memory, gpu_memory_in_all, needed_bytes
from spillover.runtime.options import EngineOptions

if TYPE_CHECKING:
    from spillover.runtime.local_engine import LocalEngine

PATIENCE_S = 1.0
"""Shorter waits are not worth a note."""


def default_settings(settings: Settings) -> ModelSettings | None:
    """The table of the model that is used where none is named; None: it has none of its own. A
    table is also that of its file, by whatever name or path it is named; of several, the one that
    lets the least leave the device."""
    if not settings.model:
        return next(iter(settings.models), None)
    named = next((own for own in settings.models if own.name == settings.model), None)
    return named or min(
        (own for own in settings.models if _is_of(settings.model, own, settings)),
        key=lambda own: STRICTEST_FIRST.index(own.cloud(settings.cloud).fallback),
        default=None,
    )


def _is_of(name: str, own: ModelSettings, settings: Settings) -> bool:
    """Whether the model *name* is the one of the table *own*."""
    if name == own.model:
        return True
    store = model_store(settings)
    try:
        return catalogue.find(name, store).is_file_of(catalogue.find(own.file, store))
    except CatalogueError:  # one of them is not here: who uses it says so
        return False


def model_entry(settings: Settings) -> ModelEntry:
    """The model that *settings* name; without a name that of the first table, the one that was
    pulled last and writes answers, or the bundled one. Raises ModelError."""
    own = default_settings(settings)
    name = settings.model if own is None else own.file
    try:
        store = model_store(settings)
        if name:
            return _with_utf8_path(catalogue.find(name, store))
        pulled = store.latest(but=_makes_vectors)
        return pulled.entry if pulled is not None else catalogue.default_model()
    except CatalogueError as error:
        raise ModelError(str(error)) from error


def _with_utf8_path(entry: ModelEntry) -> ModelEntry:
    """*entry*, if other processes can be told of its path. Raises ModelError."""
    path = str(entry.path.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ModelError(f"{path!r} is not UTF-8 text: rename it") from None
    return entry


def _makes_vectors(model: PulledModel) -> bool:
    """Whether the catalogue lists it for embeddings: it writes no answers."""
    listed = catalogue.listed_as(model.entry)
    return listed is not None and listed[1].kind == "embedding"


def model_store(settings: Settings) -> ModelStore:
    """The models that were pulled."""
    return ModelStore(expanded(Path(settings.models_dir)) if settings.models_dir else None)


def start_engine(settings: Settings, options: EngineOptions | None = None) -> LocalEngine:
    """A local engine whose worker is loading the model, with a note if it is another file than
    one would expect. Raises ModelError."""
    from spillover.runtime.local_engine import LocalEngine  # slow

    entry = model_entry(settings)
    if entry.note:
        print_note(f"spillover: {entry.note}")
    options, name = default_options(settings, options), default_name(settings, entry)
    LoadConversion(entry.path.absolute(), options).make(Cancellation())
    return LocalEngine(entry.path, options, name=name)


def default_options(settings: Settings, options: EngineOptions | None = None) -> EngineOptions:
    """*options*, or those of *settings*, with what the default model's table says."""
    options, own = options or settings.engine, default_settings(settings)
    return (options if own is None else own.engine(options)).settled()


def default_memory(settings: Settings) -> int:
    """Bytes of memory that `spillover serve` lets the default model take."""
    free = free_memory(())
    if settings.models_memory_mb is not None:
        free = min(free, int(settings.models_memory_mb * 2**20))
    path, options = model_entry(settings).path.absolute(), default_options(settings)
    with suppress(ModelError):  # loading it will say what is wrong
        gpu = gpu_memory_in_all(options.cache_dir)
        return max(free, needed_bytes(path, options, gpu).host)
    return free


def default_cloud(settings: Settings) -> CloudSettings:
    """The cloud's settings for the default model, with what its table and the catalogue say. Raises
    ModelError, ConfigError."""
    return cloud_settings(settings, model_entry(settings), default_settings(settings))


def default_name(settings: Settings, entry: ModelEntry) -> str:
    """What clients see as the name of the default model."""
    own = default_settings(settings)
    if settings.aliases:
        return settings.aliases[0]
    return entry.name if own is None else own.name


@contextmanager
def loaded_engine(settings: Settings, *, n_parallel: int = 1) -> Generator[LocalEngine]:
    """A loaded engine for *n_parallel* conversations at a time. Raises ModelError, EngineError."""
    options = msgspec.structs.replace(settings.engine, n_parallel=n_parallel, n_kv=None)
    with start_engine(settings, options) as engine:
        with note_if_slow(f"loading {engine.name} …"):
            card = engine.wait_ready()
        for warning in card.warnings:
            print_note(f"spillover: {warning}")
        yield engine


@contextmanager
def note_if_slow(message: str) -> Generator[None]:
    """Print *message* on stderr if the block takes longer than PATIENCE_S."""
    timer = threading.Timer(PATIENCE_S, print_note, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
