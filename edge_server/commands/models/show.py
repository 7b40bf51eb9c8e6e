"""spillover show: what is known of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.commands.models.device import (
    file_for_device,
    fit_of_file,
    fit_of_listed,
    in_words,
    plan_for_file,
)
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_result
from spillover.edge_server.config.settings import Settings
from spillover.models import catalogue, onnx_folder
from spillover.models.at_path import part_names
from spillover.models.catalogue import Listed, ListedFile
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.errors import ModelError
from spillover.runtime.options import EngineOptions

_EPILOG = """\b
Examples:
  spillover show qwen3-4b
  spillover show ~/models/m.gguf --json
"""


@click.command("show", epilog=_EPILOG)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@setting_options(())
def command(model: str, as_json: bool, config_flag: Path | None) -> None:
    """Describe MODEL, whether it is here or only known."""
    try:
        facts = _facts(model, load_config({}, config_flag).settings)
    except CatalogueError as error:
        raise ModelError(str(error)) from error
    if as_json:
        print_json(facts)
        return
    rows = [(key, _lines(key, value, facts["name"])) for key, value in facts.items()]
    width = max(len(_title(key)) for key in facts)
    for key, lines in rows:
        for n, line in enumerate(lines):
            print_result(f"{_title(key) if n == 0 else '':{width}}  {line}")


def _facts(model: str, settings: Settings) -> dict[str, Any]:
    """What is known, by name; sizes in bytes. What is unknown is left out."""
    listed: Listed | None
    try:
        entry = catalogue.find(model, model_store(settings))
    except CatalogueError:
        name = catalogue.listed_name(model)
        if name is None:
            raise
        listed = catalogue.listed_models()[name]
        facts = _of_listed(name, listed)
    else:
        _, listed = catalogue.listed_as(entry) or ("", None)
        facts = _of_entry(entry, settings.engine)
    if listed is not None:
        facts |= _of_both(listed)
    return {key: value for key, value in facts.items() if value not in ("", None, (), {})}


def _of_listed(name: str, listed: Listed) -> dict[str, Any]:
    choice = file_for_device(listed)
    return {
        "name": name,
        "description": listed.description,
        "is_here": False,
        "licence": listed.licence,
        "n_ctx": listed.n_ctx,
        "files": [_of_listed_file(listed, file, choice) for file in listed.files],
    }


def _of_listed_file(listed: Listed, file: ListedFile, choice: ListedFile) -> dict[str, Any]:
    return {
        "quantization": file.quantization,
        "size_bytes": file.size_bytes,
        "fit": in_words(fit_of_listed(listed, file)),
        "is_for_this_device": file is choice,
        "sha256": file.sha256 or None,
        "sources": file.sources,
    }


def _of_both(listed: Listed) -> dict[str, Any]:
    """What the catalogue knows of a model, whether it is here or not."""
    return {
        "kind": listed.kind,
        "n_params": listed.n_params or None,
        "languages": listed.languages,
        "tools": listed.tools,
        "policy": listed.policy,
        "notes": listed.notes,
    }


def _of_entry(entry: ModelEntry, options: EngineOptions) -> dict[str, Any]:
    size = entry.size_bytes or entry.n_bytes_on_disk
    plan = plan_for_file(entry.path, options)
    return {
        "name": entry.name,
        "description": entry.description,
        "is_here": True,
        "path": str(entry.path),
        "size_bytes": size,
        "licence": entry.licence,
        "sha256": entry.sha256,
        "fit": in_words(fit_of_file(entry.path)),
        "layout": plan.in_words() if plan is not None else "",
        "layout_reason": plan.reason if plan is not None else "",
    } | _of_file(entry)


def _of_file(entry: ModelEntry) -> dict[str, Any]:
    try:
        if onnx_folder.is_onnx(entry.path):
            return {"format": "ONNX", "graph": str(onnx_folder.find(entry.path).graph)}
        header = read_header(entry.path)
    except ModelFileError as error:
        raise CatalogueError(str(error)) from error
    return {
        "format": "GGUF",
        "n_files": len(part_names(entry.path.name)),
        "architecture": header.architecture,
        "n_ctx": header.n_ctx_train,
        "n_layers": header.n_layer,
        "kv_bytes_per_token": round(header.kv_bytes_per_cell(2.0)),
        "has_chat_template": bool(header.metadata.get("tokenizer.chat_template")),
    }


_TITLES = {
    "is_here": "on this device",
    "size_bytes": "size",
    "n_files": "files",
    "n_ctx": "context",
    "n_layers": "layers",
    "n_params": "parameters",
    "kv_bytes_per_token": "KV cache",
    "has_chat_template": "chat template",
    "policy": "handed over",
}


def _title(key: str) -> str:
    return _TITLES.get(key, key)


def _lines(key: str, value: Any, name: str) -> list[str]:
    """*value*, which describes the model *name*, for people to read."""
    match key:
        case "is_here":
            return ["yes" if value else f"no: `spillover pull {name}` fetches it"]
        case "files":
            return [line for file in value for line in _lines_of_file(file)]
        case "size_bytes":
            return [f"{value / 1e6:.1f} MB"]
        case "kv_bytes_per_token":
            return [f"{value} bytes per token"]
        case "languages":
            return [", ".join(value)]
        case "policy":
            return [f"{name} = {each}" for name, each in value.items()]
    return [{True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)]


def _lines_of_file(file: dict[str, Any]) -> list[str]:
    size = f"{file['size_bytes'] / 1e6:.0f} MB"
    mark = "  (for this device)" if file["is_for_this_device"] else ""
    return [
        f"{file['quantization']}  {size}  {file['fit']}{mark}",
        *(f"  from {source}" for source in file["sources"]),
    ]
