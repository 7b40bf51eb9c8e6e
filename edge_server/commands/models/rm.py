"""spillover rm: remove a model that was fetched."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_result
from spillover.models import other_programs
from spillover.models.catalogue import listed_models, listed_name
from spillover.models.file_lock import try_lock
from spillover.models.store import ModelStore, PulledModel
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.errors import ModelError

_EPILOG = """\b
Examples:
  spillover rm smollm2-135m
"""


@click.command("rm", epilog=_EPILOG)
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@setting_options(())
def command(names: tuple[str, ...], config_flag: Path | None) -> None:
    """Remove models that `spillover pull` fetched, with their files.

    Files of other programs stay; those in Hugging Face's cache are deleted.
    """
    settings = load_config({}, config_flag).settings
    store, conversions = model_store(settings), ConversionStore(settings.engine.cache_dir)
    models = {name: store.get(name) for name in names}
    for name, model in models.items():
        if model is None and not store.has_left(name):
            raise ModelError(_nothing(name))
    for name, model in models.items():
        n_bytes = _remove(store, name, model)
        if model is not None:
            conversions.forget(model.entry.path.absolute())
        print_result(f"{model.name if model else name} is removed, {n_bytes / 1e6:.1f} MB are free")


def _remove(store: ModelStore, name: str, model: PulledModel | None) -> int:
    """The bytes that became free. Raises ModelError."""
    try:
        with try_lock(store.lock_of(name)) as is_ours:
            if not is_ours:
                raise ModelError(f"`spillover pull` is fetching {name} right now: stop it first")
            return store.discard(name) if model is None else store.remove(model)
    except OSError as error:
        raise ModelError(
            f"{name} cannot be removed: {error}. While a server has it loaded, it may be in use"
        ) from error


def _nothing(name: str) -> str:
    listed = listed_name(name)
    if listed is not None and listed_models()[listed].is_bundled:
        return f"{name} comes with Spillover and cannot be removed"
    if other_programs.find(name) is not None:
        return f"{name} is another program's: remove it there"
    return f"no model {name} was pulled: `spillover models --here` lists what is on this device"
