"""What is left of a conversion that a process of its own makes."""

from __future__ import annotations

from pathlib import Path

from spillover.edge_server.commands.engines.order import Order
from spillover.models.file_lock import try_lock
from spillover.runtime.conversions.choice import look_up
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.options import EngineOptions


def options_in(folder: Path, **settings: object) -> EngineOptions:
    return EngineOptions(cache_dir=folder / "spillover", n_threads=1, **settings)  # type: ignore[arg-type]


def is_free(store: ConversionStore) -> bool:
    with try_lock(store.lock) as is_ours:
        return is_ours


def is_checked(path: Path, options: EngineOptions) -> bool:
    found = look_up(path, options).conversion
    return found is not None and found.fidelity is not None


def left_by(order: Order) -> tuple[set[str], int]:
    """The folders in the store, and the tries that are counted as crashes."""
    store = ConversionStore(order.options.cache_dir)
    note = look_up(order.path, order.options).note
    names = {path.name for path in store.folder.iterdir()} if store.folder.is_dir() else set()
    return names - {"lock", "sources"}, note.n_died if note is not None else 0


def is_converting(order: Order) -> bool:
    return (ConversionStore(order.options.cache_dir).folder / ".making").exists()
