"""Finds models by name or path: the catalogue's, those that were pulled or are another program's,
and any GGUF file or ONNX folder."""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta, Struct

from spillover.models import other_programs
from spillover.models.at_path import may_be_model, model_at
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.models.quantization import best_first, is_named
from spillover.models.source import HubSource, parse_source, show
from spillover.models.store import ModelStore

_FOLDER = Path(__file__).parent
_TAGGED = re.compile(r"[\w.-]{2,}:[\w.-]+")

Sha256 = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


class ListedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One quantization of a listed model."""

    quantization: str
    size_bytes: Annotated[int, Meta(gt=0)]
    """Exact where *sha256* is given, else about."""
    sha256: Sha256 = ""
    sources: Annotated[tuple[str, ...], Meta(min_length=1)]
    """In the order in which they are tried."""


class Listed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the catalogue; catalogue.toml explains the fields."""

    licence: str
    n_ctx: Annotated[int, Meta(gt=0)]
    description: str
    n_params: Annotated[int, Meta(ge=0)] = 0
    kv_bytes_per_token: Annotated[int, Meta(ge=0)] = 0
    kind: Literal["chat", "embedding"] = "chat"
    languages: tuple[Annotated[str, Meta(pattern="^[a-z]{2,3}$")], ...] = ()
    tools: bool | None = None
    policy: dict[str, Any] = {}
    notes: str = ""
    recommended: dict[str, str] = {}
    files: tuple[ListedFile, ...] = ()
    file: str = ""
    sha256: Sha256 = ""
    size_bytes: Annotated[int, Meta(ge=0)] = 0
    default: bool = False
    without_llama: str = ""

    @property
    def is_bundled(self) -> bool:
        return bool(self.file)

    def choose(self, wanted: str, *, total_bytes: int, free_bytes: int) -> ListedFile:
        """The file of the quantization *wanted*; without it, the one that is recommended for a
        device with *total_bytes* of memory if it fits into *free_bytes*, else the best that fits.

        Raises CatalogueError.
        """
        files = {file.quantization: file for file in self.files}
        if wanted:
            name = is_named(wanted, files)
            if name is None:
                raise CatalogueError(f"there is no {wanted} of it: choose {', '.join(files)}")
            return files[name]
        classes = sorted((float(size), name) for size, name in self.recommended.items())
        fitting = [name for size, name in classes if size * 2**30 <= total_bytes * 1.05]
        if fitting and files[fitting[-1]].size_bytes < free_bytes:
            return files[fitting[-1]]
        sizes = {name: file.size_bytes for name, file in files.items()}
        return files[best_first(sizes, free_bytes)[0]]


def listed_models() -> dict[str, Listed]:
    """The models of the catalogue by name; the user's own list is merged over it."""
    return _read(_FOLDER / "catalogue.toml") | _own_list()


def _own_list() -> dict[str, Listed]:
    own = platformdirs.user_config_path("spillover", appauthor=False) / "models.toml"
    if not own.is_file():
        return {}
    try:
        return _checked(_read(own))
    except (ValueError, RecursionError, msgspec.ValidationError, CatalogueError) as error:
        raise CatalogueError(f"{own} cannot be used: {error}") from error


def _checked(models: dict[str, Listed]) -> dict[str, Listed]:
    """*models*, one of whose files can be chosen, and whose sources can be read. Raises
    CatalogueError, which names the table."""
    for name, listed in models.items():
        if (wrong := _wrong_files(name, listed)) is not None:
            raise CatalogueError(f"[{name}]: {wrong}")
        for source in (source for file in listed.files for source in file.sources):
            try:
                parse_source(source)
            except CatalogueError as error:
                raise CatalogueError(f"[{name}]: {error}") from error
    return models


def _wrong_files(name: str, listed: Listed) -> str | None:
    if listed.file:
        return "file is only for models that come with Spillover: list the model under files"
    if not listed.files and name not in _bundled_models():
        return "files lists none: say where the model comes from"
    names = {file.quantization for file in listed.files}
    for size, quantization in listed.recommended.items():
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", size):
            return f"recommended: {size!r} is no size of memory in GiB"
        if quantization not in names:
            return f"recommended: {quantization} is not listed under files"
    return None


@cache
def _read(path: Path) -> dict[str, Listed]:
    return msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, Listed])


def listed_name(name: str) -> str | None:
    """*name* as the catalogue writes it, if it has a model of this name, whatever its case."""
    return is_named(name, listed_models())


def listed_as(entry: ModelEntry) -> tuple[str, Listed] | None:
    """The table of a model that is here, and its name: of one that comes with the package, or that
    was pulled from where the table has it from. A file that merely has its name may be another.

    Of several tables that of the model's own name counts, then the user's."""
    models = listed_models()
    if entry.name in _bundled_models():
        return entry.name, models[entry.name]
    origin = _origin(entry.source)
    if origin is None:
        return None
    for name in (entry.name, *_own_list(), *models):
        for file in models[name].files if name in models else ():
            if origin in map(_origin, file.sources):
                return name, models[name]
    return None


def _origin(source: str) -> object:
    """What tells whether two sources are of one model: the repository, or the source itself."""
    found = parse_source(source) if source else None
    return found.repository if isinstance(found, HubSource) else found


def names() -> tuple[str, ...]:
    """The names in the catalogue, in its order."""
    return tuple(listed_models())


def default_model() -> ModelEntry:
    """The bundled model, which is used when none is named and none was pulled."""
    models = _bundled_models()
    return next(_bundled(name, models) for name, listed in models.items() if listed.default)


def _bundled_models() -> dict[str, Listed]:
    models = _read(_FOLDER / "catalogue.toml")
    return {name: listed for name, listed in models.items() if listed.is_bundled}


def bundled_names() -> tuple[str, ...]:
    """The models that come with the package."""
    return tuple(_bundled_models())


def find(name_or_path: str, store: ModelStore | None = None) -> ModelEntry:
    """The model of a name, a GGUF or ONNX file, or a folder with one model in it.

    Names of bundled and pulled models take precedence over files: write ./name for the file. Names
    in the lists of other programs come last. Raises CatalogueError.
    """
    bundled = _bundled_models()
    name = is_named(name_or_path, bundled)
    if name is not None:
        return _bundled(name, bundled)
    entry = (store or ModelStore()).find(name_or_path)
    entry = entry or model_at(name_or_path) or other_programs.find(name_or_path)
    if entry is None:
        raise CatalogueError(_not_found(name_or_path))
    return entry


def is_model(name_or_path: str, store: ModelStore | None = None) -> bool:
    """Whether it is the name of a model that is here or known, or the path of a possible one."""
    if listed_name(name_or_path) is not None or may_be_model(name_or_path):
        return True
    return (store or ModelStore()).get(name_or_path) is not None


def _bundled(name: str, models: dict[str, Listed]) -> ModelEntry:
    """The entry of *name*, with the file of the model that stands in for it where llama.cpp is not
    installed."""
    listed, note = models[name], ""
    if listed.without_llama and not has_llama():
        listed = models[listed.without_llama]
        note = (
            f"{name} runs on ONNX Runtime, because llama.cpp is not installed (yet). To install "
            f"it: {INSTALL_LLAMA}"
        )
    path = _FOLDER / listed.file
    if not path.is_file():
        raise CatalogueError(f"{path} is missing: install Spillover again")
    return ModelEntry(
        name=name,
        path=path,
        sha256=listed.sha256,
        size_bytes=listed.size_bytes,
        licence=listed.licence,
        n_ctx=listed.n_ctx,
        description=listed.description,
        note=note,
    )


def _not_found(text: str) -> str:
    known = listed_models()
    name, _, quantization = text.partition(":")
    name = is_named(name, known) or ""
    if name and known[name].files:
        return _how_to_pull(name, quantization, known[name])
    source = parse_source(text)
    if source is not None:
        command = f"spillover pull {shlex.quote(show(source))}"
        return f"there is no file or folder {text!r}; `{command}` fetches it"
    if _TAGGED.fullmatch(text):
        return (
            f"{text!r} looks like a model of Ollama, and Ollama has none of this name on this "
            "device. `ollama pull` it, or choose one that `spillover models` lists"
        )
    near = difflib.get_close_matches(text, known, n=1)
    guess = f"did you mean {near[0]}? Else " if near else ""
    return (
        f"there is no model {text!r}: {guess}give the path of a .gguf file, the folder of an ONNX "
        "model, or a name that `spillover models` lists"
    )


def _how_to_pull(name: str, quantization: str, listed: Listed) -> str:
    files = {file.quantization: file for file in listed.files}
    wanted = is_named(quantization, files)
    if quantization and wanted is None:
        return f"{name} has no quantization {quantization!r}: it has {', '.join(files)}"
    if wanted is not None:
        text, size = f"{name}:{wanted}", f"{files[wanted].size_bytes / 1e6:.0f} MB"
    else:
        smallest = min(file.size_bytes for file in listed.files)
        text, size = name, f"{smallest / 1e6:.0f} MB or more"
    return f"{text} is not on this device yet: `spillover pull {text}` fetches it ({size})"
