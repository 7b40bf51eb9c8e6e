"""Finds the models that other programs keep on this device, to use them in place.

Ollama: manifests/HOST/NAMESPACE/NAME/TAG is a JSON list of layers, and blobs/sha256-HEX holds each.
LM Studio, and the caches of Hugging Face and llama.cpp: .gguf files in folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from msgspec import Struct

from spillover.models.at_path import part_names, stem_of
from spillover.models.entry import ModelEntry
from spillover.models.errors import ModelFileError
from spillover.models.small_files import decode_json, read_small

_MOST_FILES = 10_000
"""A folder with more is not searched to its end."""

_MODEL_LAYER = "application/vnd.ollama.image.model"
_ADDED_LAYERS = {
    "application/vnd.ollama.image.adapter": "an adapter",
    "application/vnd.ollama.image.projector": "a projector for images",
}
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")


class _Layer(Struct, frozen=True):
    mediaType: str = ""  # as Ollama writes it
    digest: str = ""
    size: int = 0


class _Manifest(Struct, frozen=True):
    layers: tuple[_Layer, ...] = ()


class FoundModel(Struct, frozen=True, kw_only=True):
    """A model that another program has fetched."""

    program: str
    entry: ModelEntry


def found_models() -> Iterator[FoundModel]:
    """Every model of other programs, in the order in which names are looked up."""
    yield from _of_ollama()
    for program, folder in _folders():
        yield from _in_folder(program, folder)


def find(name: str) -> ModelEntry | None:
    """The model of another program that is called *name*: Ollama's `llama3.2:1b` (`:latest` may be
    left out), or a file's name without its ending."""
    wanted = {name.casefold(), f"{name}:latest".casefold()}
    return next(
        (found.entry for found in found_models() if found.entry.name.casefold() in wanted), None
    )


def _of_ollama() -> Iterator[FoundModel]:
    for folder in _ollama_folders():
        root = folder / "manifests"
        for manifest in _files(root):
            entry = _ollama_model(manifest, manifest.relative_to(root), folder / "blobs")
            if entry is not None:
                yield FoundModel(program="Ollama", entry=entry)


def _ollama_folders() -> list[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    places = [named] if named else ["~/.ollama/models", "/usr/share/ollama/.ollama/models"]
    return [Path(os.path.expanduser(place)) for place in places]


def _ollama_model(manifest: Path, place: Path, blobs: Path) -> ModelEntry | None:
    """The model of one manifest; None where there is nothing that a GGUF reader could use."""
    if len(place.parts) < 3:
        return None
    try:
        content = read_small(manifest)
        layers = () if content is None else decode_json(content, _Manifest, manifest).layers
    except ModelFileError:
        return None
    weights = [layer for layer in layers if layer.mediaType == _MODEL_LAYER]
    digest = _DIGEST.fullmatch(weights[0].digest) if len(weights) == 1 else None
    if digest is None or any(layer.mediaType in _ADDED_LAYERS for layer in layers):
        return None
    path = blobs / f"sha256-{digest['hex']}"
    if not _is_gguf(path):
        return None
    *owner, name, tag = place.parts[1:]
    prefix = "" if owner in ([], ["library"]) else "/".join(owner) + "/"
    return ModelEntry(
        name=f"{prefix}{name}:{tag}",
        path=path,
        sha256=digest["hex"],
        size_bytes=weights[0].size,
        description="of Ollama, used in place",
        remedy=f"ollama pull {prefix}{name}:{tag}",
    )


def _folders() -> Iterator[tuple[str, Path]]:
    home = Path(os.path.expanduser("~"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    yield "LM Studio", home / ".lmstudio" / "models"
    yield "LM Studio", cache / "lm-studio" / "models"
    yield "llama.cpp", Path(os.environ.get("LLAMA_CACHE") or cache / "llama.cpp")
    hub = os.environ.get("HF_HUB_CACHE")
    hf_home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    yield "Hugging Face", Path(hub) if hub else hf_home / "hub"


def _in_folder(program: str, folder: Path) -> Iterator[FoundModel]:
    for path in _files(folder):
        parts = part_names(path.name)
        is_first = parts[:1] == [path.name]
        if path.suffix.lower() != ".gguf" or not is_first or "mmproj" in path.name.lower():
            continue
        files = [path.with_name(name) for name in parts]
        if all(_is_gguf(file) for file in files):
            entry = ModelEntry(
                name=stem_of(path.name),
                path=path,
                size_bytes=sum(file.stat().st_size for file in files),
                description=f"of {program}, used in place",
                remedy="fetch it again",
            )
            yield FoundModel(program=program, entry=entry)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, which may not exist or not be ours to read."""
    walk = os.walk(folder, onerror=None, followlinks=False)
    paths = (
        Path(place, name) for place, folders, names in walk for name in _sorted(folders, names)
    )
    yield from islice(paths, _MOST_FILES)


def _sorted(folders: list[str], names: list[str]) -> list[str]:
    folders.sort()  # os.walk goes on in this order
    return sorted(names)


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
