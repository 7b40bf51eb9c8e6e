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
)
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_result
from spillover.models import catalogue, onnx_folder
from spillover.models.at_path import part_names
from spillover.models.catalogue import Listed
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.models.store import ModelStore
from spillover.runtime.errors import ModelError

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
        facts = _facts(model, model_store(load_config({}, config_flag).settings))
    except CatalogueError as error:
        raise ModelError(str(error)) from error
    if as_json:
        print_json(facts)
        return
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for n, line in enumerate(lines):
            print_result(f"{key if n == 0 else '':{width}}  {line}")


def _facts(model: str, store: ModelStore) -> dict[str, Any]:
    listed = catalogue.listed_models().get(model)
    try:
        entry = catalogue.find(model, store)
    except CatalogueError:
        if listed is None:
            raise
        return _of_listed(model, listed)
    return _of_entry(entry) | ({"notes": listed.notes} if listed and listed.notes else {})


def _of_listed(name: str, listed: Listed) -> dict[str, Any]:
    choice = file_for_device(listed)
    files = [
        f"{file.quantization}  {file.size_bytes / 1e6:.0f} MB"
        f"  {in_words(fit_of_listed(listed, file))}"
        + ("  (for this device)" if file is choice else "")
        for file in listed.files
    ]
    facts: dict[str, Any] = {
        "name": name,
        "description": listed.description,
        "state": f"not on this device: spillover pull {name}",
        "kind": listed.kind,
        "licence": listed.licence,
        "context": listed.n_ctx,
        "parameters": listed.n_params,
        "files": files,
        "sources": [source for file in listed.files for source in file.sources],
    }
    return facts | ({"notes": listed.notes} if listed.notes else {})


def _of_entry(entry: ModelEntry) -> dict[str, Any]:
    size = entry.size_bytes or entry.n_bytes_on_disk
    facts: dict[str, Any] = {
        "name": entry.name,
        "description": entry.description,
        "path": str(entry.path),
        "size": f"{size / 1e6:.1f} MB",
        "licence": entry.licence,
        "sha256": entry.sha256,
        "fit": in_words(fit_of_file(entry.path, size)),
    }
    return {key: value for key, value in facts.items() if value} | _of_file(entry)


def _of_file(entry: ModelEntry) -> dict[str, Any]:
    try:
        if onnx_folder.is_onnx(entry.path):
            return {"format": "ONNX", "graph": str(onnx_folder.find(entry.path).graph)}
        header = read_header(entry.path)
    except ModelFileError as error:
        raise CatalogueError(str(error)) from error
    metadata = header.metadata
    template = metadata.get("tokenizer.chat_template")
    return {
        "format": f"GGUF, {len(part_names(entry.path.name))} file(s), {header.architecture}",
        "context": header.n_ctx_train,
        "layers": header.n_layer,
        "KV cache": f"{header.kv_bytes_per_cell(2.0):.0f} bytes per token",
        "chat template": "yes" if template else "none",
    }
