"""Fetches models from Hugging Face, or a server that speaks its API, into its own client's cache.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from spillover.models import onnx_folder
from spillover.models.at_path import part_names
from spillover.models.entry import sha256_of
from spillover.models.pull.fetched import Fetched, Offline, Progress, PullError, need_space
from spillover.models.quantization import best_first, is_named, quantization_of
from spillover.models.source import HubSource, show

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

TIMEOUT_S = 20.0

_SETTINGS = (".json", ".jinja", ".model", ".txt")
"""Endings of the small files that an ONNX model has beside its graph."""

_MOST_SETTING_BYTES = 64 * 2**20

_IS_OF_ANOTHER_SIZE = "Consistency check failed"
"""How the client's error begins when more or fewer bytes came than were announced."""


class _File(Struct, frozen=True):
    """A file of a repository."""

    name: str
    size: int
    sha256: str | None


def fetch(
    source: HubSource, onnx_target: Path, progress: Progress, *, free_bytes: int, offline: bool
) -> Fetched:
    """Fetch the files that *source* names; without a file or a quantization in it, the one that
    suits a device with *free_bytes* of memory. What is in the cache is not fetched again. An ONNX
    model goes to the folder *onnx_target*: ONNX Runtime refuses weights behind a cache's links.

    Raises PullError, Offline, OSError.
    """
    from huggingface_hub import HfApi  # slow

    with _explained(source, offline=offline):
        if offline:
            return _from_cache(source)
        info = HfApi().model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=TIMEOUT_S
        )
        files = _choose(source, _files(info), free_bytes)
        is_onnx = files[0].name.endswith(".onnx")
        folder = onnx_target if is_onnx else None
        return _download(HfApi(), source, files, folder, progress)


def _files(info: ModelInfo) -> list[_File]:
    return [
        _File(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or ()
    ]


# --- choice -------------------------------------------------------------------------------------


def _choose(source: HubSource, files: list[_File], free_bytes: int) -> list[_File]:
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
        "ends in -GGUF, or convert the model with `spillover export`"
    )


def _gguf_models(files: Iterable[_File]) -> list[list[_File]]:
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


def _pick(source: HubSource, models: list[list[_File]], free_bytes: int) -> list[_File]:
    named = {quantization_of(model[0].name) or model[0].name: model for model in models}
    if source.wanted:
        wanted = is_named(source.wanted, named)
        if wanted is None:
            raise PullError(
                f"{source.repository} has no {source.wanted}: it has {', '.join(sorted(named))}"
            )
        return named[wanted]
    sizes = {name: sum(file.size for file in model) for name, model in named.items()}
    return named[best_first(sizes, free_bytes)[0]]


def _whole(source: HubSource, file: _File, by_name: dict[str, _File]) -> list[_File]:
    """A named file, and all that it needs."""
    if file.name.endswith(".onnx"):
        return _onnx_files(source, [file], list(by_name.values()))
    path = PurePosixPath(file.name)
    if path.suffix.lower() != ".gguf":
        raise PullError(f"{show(source)} is no model file: name a .gguf or an .onnx file")
    names = [str(path.with_name(part)) for part in part_names(path.name)]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise PullError(f"{source.repository} lacks {', '.join(missing)}, a part of this model")
    return [by_name[name] for name in names]


def _onnx_files(source: HubSource, graphs: list[_File], files: list[_File]) -> list[_File]:
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


# --- transfer -----------------------------------------------------------------------------------


def _download(
    api: HfApi,
    source: HubSource,
    files: list[_File],
    folder: Path | None,
    progress: Progress,
) -> Fetched:
    from huggingface_hub.constants import HF_HUB_CACHE

    total = sum(file.size for file in files)
    need_space(folder or Path(HF_HUB_CACHE), total)
    paths = []
    n_done = 0
    for file in files:
        bar = _bar(progress, n_done, total)
        paths.append(_checked(api, source, file, folder, bar))
        n_done += file.size
        progress(n_done, total)
    return Fetched(path=paths[0], files=tuple(paths), sha256=files[0].sha256)


def _checked(api: HfApi, source: HubSource, file: _File, folder: Path | None, bar: Any) -> Path:
    """The complete file. What does not have its digest is deleted and fetched once more: a cache
    may be damaged, or a server may have answered an attempt to go on with another part."""
    for is_second in (False, True):
        try:
            path = Path(
                api.hf_hub_download(
                    source.repository,
                    file.name,
                    revision=source.revision,
                    local_dir=folder,
                    force_download=is_second,
                    tqdm_class=bar,
                )
            )
        except OSError as error:
            if _IS_OF_ANOTHER_SIZE not in str(error):
                raise
            continue
        size = path.stat().st_size
        if file.sha256 is None or (size == file.size and sha256_of(path) == file.sha256):
            return path
        for damaged in {path.resolve(), path}:
            damaged.unlink(missing_ok=True)
    raise PullError(
        f"{file.name} of {source.repository} arrived damaged twice: its digest is not what the "
        "server says. Nothing was kept; try later, or another repository"
    )


def _from_cache(source: HubSource) -> Fetched:
    """What an earlier download has left, without the network."""
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(source.repository, revision=source.revision, local_files_only=True)
    )
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = _choose(source, [_File(n, (folder / n).stat().st_size, None) for n in names], 1 << 62)
    paths = tuple(folder / file.name for file in files)
    return Fetched(path=paths[0], files=paths)


def _bar(progress: Progress, n_before: int, total: int) -> Any:
    """The kind of progress bar that the client is to report to."""
    from tqdm import tqdm

    def update(self: Any, n: float | None = 1) -> None:
        self.n += n or 0
        progress(min(n_before + int(self.n), total), total)

    def initialize(self: Any, *_: Any, initial: int = 0, **__: Any) -> None:
        tqdm.__init__(self, initial=initial, disable=True)
        self.n = initial

    return type("Bar", (tqdm,), {"__init__": initialize, "update": update})


@contextmanager
def _explained(source: HubSource, *, offline: bool) -> Generator[None]:
    """Turns the client's errors into ours."""
    from huggingface_hub import errors

    where = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    try:
        yield
    except errors.GatedRepoError as error:
        raise PullError(
            f"{source.repository} must be unlocked: accept its terms at "
            f"{where}/{source.repository}, and set HF_TOKEN to a token of yours"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PullError(
            f"{where} has no repository {source.repository}, or it is private: look at the name, "
            "or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PullError(f"{source.repository} has no revision {source.revision}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if not offline and isinstance(error, errors.LocalEntryNotFoundError):
            raise PullError(_unreachable(where, error.__cause__ or error)) from error
        raise Offline(
            f"{show(source)} is not on this device, or not complete, and the network is not used: "
            "pull it when you are online"
        ) from error
    except errors.HfHubHTTPError as error:
        raise PullError(
            f"{where} did not send {source.repository}: {_first_line(error)}"
        ) from error
    except errors.HFValidationError as error:
        raise PullError(f"{source.repository}: {_first_line(error)}") from error
    except Exception as error:
        if not _is_of_transport(error):
            raise
        raise PullError(_unreachable(where, error)) from error


def _unreachable(where: str, error: BaseException) -> str:
    return (
        f"{where} cannot be reached ({_first_line(error)}). What has come is kept; the same "
        "command goes on with the rest"
    )


def _is_of_transport(error: Exception) -> bool:
    """Whether it is of the client's own HTTP library, which differs between its versions."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"httpx", "httpx2", "requests", "urllib3"})


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
