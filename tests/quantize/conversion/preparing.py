"""What tests convert: a copy of the bundled model, with a cache of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from spillover.models.catalogue import default_model
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.options import EngineOptions

BUNDLED = Path(default_model().path)


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def options_in(folder: Path, **settings: object) -> EngineOptions:
    options = EngineOptions(cache_dir=folder / "cache", n_threads=1)
    return msgspec.structs.replace(options, **settings)


def copy_in(folder: Path) -> tuple[Path, EngineOptions]:
    """The bundled model in a file of its own, and options for it."""
    return Path(shutil.copy(BUNDLED, folder / "m.gguf")), options_in(folder)


def everything_in(store: ConversionStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {"lock", "sources"}
