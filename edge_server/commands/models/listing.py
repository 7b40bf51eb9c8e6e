"""spillover models: the models that are here, and those that can be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.commands.models.device import (
    file_for_device,
    fit_of_file,
    fit_of_listed,
    in_words,
)
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.models import catalogue, other_programs
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.store import ModelStore
from spillover.runtime.errors import ModelError


class _Row(Struct, frozen=True, kw_only=True):
    """A model of the list."""

    name: str
    is_here: bool
    size_bytes: int
    fit: str
    description: str
    quantization: str = ""
    licence: str = ""
    path: str = ""


_EPILOG = """\b
Examples:
  spillover models
  spillover models --here --json
"""


@click.command("models", epilog=_EPILOG)
@click.option("--here", is_flag=True, help="Only models that are on this device.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@setting_options(())
def command(here: bool, as_json: bool, config_flag: Path | None) -> None:
    """List the models that are here, and those that `spillover pull` knows by name."""
    try:
        store = model_store(load_config({}, config_flag).settings)
        local = _local(store)
        known = [] if here else _known({row.name for row in local})
    except CatalogueError as error:
        raise ModelError(str(error)) from error
    for name in store.unreadable():
        print_note(
            f"note: the record of {name} cannot be read: `spillover rm {name}` removes it with its "
            "files; then pull the model again"
        )
    if as_json:
        print_json(local + known)
        return
    _print("On this device:", local)
    if known:
        _print("To be fetched with `spillover pull NAME`:", known)


def _local(store: ModelStore) -> list[_Row]:
    bundled = [catalogue.find(name) for name in catalogue.bundled_names()]
    pulled = [model.entry for model in store.all() if model.is_complete]
    others = [found.entry for found in other_programs.found_models()]
    rows: dict[str, _Row] = {}
    for entry in bundled + pulled + others:
        if str(entry.path) not in {row.path for row in rows.values()}:
            rows.setdefault(entry.name, _row(entry))
    return list(rows.values())


def _row(entry: ModelEntry) -> _Row:
    size = entry.size_bytes or entry.n_bytes_on_disk
    return _Row(
        name=entry.name,
        is_here=True,
        size_bytes=size,
        fit=in_words(fit_of_file(entry.path)),
        description=entry.description,
        licence=entry.licence,
        path=str(entry.path),
    )


def _known(here: set[str]) -> list[_Row]:
    rows = []
    for name, listed in catalogue.listed_models().items():
        if listed.is_bundled or name in here:
            continue
        file = file_for_device(listed)
        rows.append(
            _Row(
                name=name,
                is_here=False,
                size_bytes=file.size_bytes,
                fit=in_words(fit_of_listed(listed, file)),
                description=listed.description,
                quantization=file.quantization,
                licence=listed.licence,
            )
        )
    return rows


def _print(title: str, rows: list[Any]) -> None:
    print_result(title)
    width = max(len(row.name) for row in rows)
    for row in rows:
        size = f"{row.size_bytes / 1e6:.0f} MB" if row.size_bytes < 1e9 else ""
        size = size or f"{row.size_bytes / 1e9:.1f} GB"
        print_result(f"  {row.name:{width}}  {size:>7}  {row.fit:23}  {row.description}")
    print_result("")
