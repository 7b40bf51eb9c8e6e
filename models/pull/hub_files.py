"""Decides which files of a repository are the model that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from msgspec import Struct

from spillover.models import onnx_folder
from spillover.models.at_path import part_names, some_of
from spillover.models.pull.fetched import PullError
from spillover.models.quantization import best_first, is_named, quantization_of
from spillover.models.source import HubSource, show

_SETTINGS = (".json", ".jinja", ".model", ".txt")
"""Endings of the small files that an ONNX model has beside its graph."""

_MOST_SETTING_BYTES = 64 * 2**20


class HubFile(Struct, frozen=True):
    """A file of a repository."""

    name: str
    size: int
    sha256: str | None


def choose(source: HubSource, files: list[HubFile], free_bytes: int) -> list[HubFile]:
    """The files of the model that is wanted; the one to be opened first."""
    by_name = {file.name: file for file in files}
    if "." in PurePosixPath(source.wanted).name and source.wanted in by_name:
        return _whole(source, by_name[source.wanted], by_name)
    models = _gguf_models(files)
    if models:
        return _pick(source, models, free_bytes)
    graphs = [file for file in files if file.name.endswith(".onnx")]
    if graphs:
        return _onnx_files(source, graphs, files)
    raise PullError(
        f"{source.repository} has no .gguf and no .onnx file. Look for a repository whose name "
        "ends in -GGUF, or download this one and convert it: `spillover export gguf FOLDER m.gguf`"
    )


def _gguf_models(files: Iterable[HubFile]) -> list[list[HubFile]]:
    """The complete GGUF models among *files*, each with its parts in order."""
    by_name = {file.name: file for file in files}
    models = []
    for file in by_name.values():
        path = PurePosixPath(file.name)
        if path.suffix.lower() != ".gguf" or "mmproj" in path.name.lower():
            continue
        names = [str(path.with_name(part)) for part in part_names(path.name)]
        if names[0] == file.name and all(name in by_name for name in names):
            models.append([by_name[name] for name in names])
    return models


def _pick(source: HubSource, models: list[list[HubFile]], free_bytes: int) -> list[HubFile]:
    named: dict[str, list[list[HubFile]]] = {}
    for model in models:
        named.setdefault(quantization_of(model[0].name) or model[0].name, []).append(model)
    sizes = {name: sum(file.size for file in found[0]) for name, found in named.items()}
    wanted = is_named(source.wanted, named) if source.wanted else best_first(sizes, free_bytes)[0]
    if wanted is None:
        raise PullError(
            f"{source.repository} has no {source.wanted}: it has {', '.join(sorted(named))}"
        )
    if len(named[wanted]) > 1:
        files = [model[0].name for model in named[wanted]]
        raise PullError(
            f"{source.repository} has several files of {wanted} ({', '.join(files)}): name one, "
            f"such as hf:{source.repository}/{files[0]}"
        )
    return named[wanted][0]


def _whole(source: HubSource, file: HubFile, by_name: dict[str, HubFile]) -> list[HubFile]:
    """A named file, and all that it needs."""
    if file.name.endswith(".onnx"):
        return _onnx_files(source, [file], list(by_name.values()))
    path = PurePosixPath(file.name)
    if path.suffix.lower() != ".gguf":
        raise PullError(f"{show(source)} is no model file: name a .gguf or an .onnx file")
    names = [str(path.with_name(part)) for part in part_names(path.name)]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise PullError(f"{source.repository} lacks {some_of(missing)}, a part of this model")
    return [by_name[name] for name in names]


def _onnx_files(source: HubSource, graphs: list[HubFile], files: list[HubFile]) -> list[HubFile]:
    """A graph with its weights, and the tokenizer and settings of the repository."""
    by_name = {graph.name: graph for graph in graphs}
    graph = by_name.get(onnx_folder.best_graph(by_name) or "")
    if source.wanted and source.wanted not in by_name:
        fitting = [name for name in by_name if f"_{source.wanted}.".casefold() in name.casefold()]
        graph = by_name[fitting[0]] if len(fitting) == 1 else None
    if graph is None:
        raise PullError(f"{source.repository}: name one of the graphs {', '.join(by_name)}")
    folder = str(PurePosixPath(graph.name).parent)
    beside = [file for file in files if file.name.startswith(f"{graph.name}")]
    settings = [
        file
        for file in files
        if str(PurePosixPath(file.name).parent) in (".", folder)
        and file.name.endswith(_SETTINGS)
        and file.size <= _MOST_SETTING_BYTES
    ]
    return [graph, *(file for file in beside if file is not graph), *settings]
