"""Fetches models from Hugging Face, or a server that speaks its API, into its own client's cache.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean there. The client finds the
files and links them into its cache; large ones come by `address`, because the client keeps nothing
of a transfer that ended early.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from spillover.models.entry import sha256_of
from spillover.models.pull.address import download
from spillover.models.pull.failures import need_space
from spillover.models.pull.fetched import Fetched, Progress, PullError, only_one
from spillover.models.pull.hub_errors import explained, not_here
from spillover.models.pull.hub_files import HubFile, choose
from spillover.models.pull.incomplete import IncompleteFile
from spillover.models.source import HubSource

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

TIMEOUT_S = 20.0

_DIGEST = re.compile("[0-9a-f]{64}")

_IS_OF_ANOTHER_SIZE = "Consistency check failed"
"""How the client's error begins when more or fewer bytes came than were announced."""


class _Place(Struct, frozen=True, kw_only=True):
    """Where the files of a repository go."""

    source: HubSource
    commit: str
    folder: Path | None
    """The folder of an ONNX model; None: the client's cache."""

    @property
    def cache(self) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    @property
    def of_repository(self) -> str:
        """What the client calls a folder for the repository."""
        from huggingface_hub.file_download import repo_folder_name

        return repo_folder_name(repo_id=self.source.repository, repo_type="model")

    def path(self, file: HubFile) -> Path:
        """Where the bytes of a file with a digest go."""
        if self.folder is not None:
            return self.folder / file.name
        return self.cache / self.of_repository / "blobs" / (file.sha256 or "")

    def cached(self, file: HubFile) -> Path | None:
        """A file of the commit that the client's cache has, whoever has fetched it."""
        from huggingface_hub import try_to_load_from_cache

        if self.folder is not None:
            return None
        found = try_to_load_from_cache(
            self.source.repository, file.name, revision=self.commit, cache_dir=self.cache
        )
        return Path(found) if isinstance(found, str) else None

    def lock(self, file: HubFile) -> Path:
        """What the client, too, locks while it fetches a file."""
        return self.cache / ".locks" / self.of_repository / f"{file.sha256}.lock"

    def n_missing(self, file: HubFile) -> int:
        """The bytes of a file that are still to come, if those that are here are right."""
        if file.sha256 is None:
            return file.size
        if self.cached(file) is not None:
            return 0
        path = self.path(file)
        held = path.stat().st_size if path.is_file() else IncompleteFile(path).n_bytes
        return max(file.size - held, 0)


def fetch(
    source: HubSource, onnx_target: Path, progress: Progress, *, free_bytes: int, offline: bool
) -> Fetched:
    """Fetch the files that *source* names; without a file or a quantization in it, the one that
    suits a device with *free_bytes* of memory. What is in the cache is not fetched again. An ONNX
    model goes to the folder *onnx_target*: ONNX Runtime refuses weights behind a cache's links.

    Raises PullError, Offline, OSError.
    """
    from huggingface_hub import HfApi  # slow

    with explained(source, offline=offline):
        if offline:
            return _from_cache(source)
        info = HfApi().model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=TIMEOUT_S
        )
        files = choose(source, _files(info), free_bytes)
        is_onnx = files[0].name.endswith(".onnx")
        place = _Place(
            source=source,
            commit=info.sha or source.revision,
            folder=onnx_target if is_onnx else None,
        )
        return _download(place, files, progress)


def _files(info: ModelInfo) -> list[HubFile]:
    """The files of a repository whose names stay inside a folder."""
    return [
        HubFile(file.rfilename, file.size or 0, _digest(file.lfs.sha256) if file.lfs else None)
        for file in info.siblings or ()
        if ".." not in PurePosixPath(file.rfilename).parts
        and not PurePosixPath(file.rfilename).is_absolute()
        and "\\" not in file.rfilename
    ]


def _digest(text: str) -> str | None:
    return text if _DIGEST.fullmatch(text) else None


# --- transfer -----------------------------------------------------------------------------------


def _download(place: _Place, files: list[HubFile], progress: Progress) -> Fetched:
    need_space(place.folder or place.cache, sum(map(place.n_missing, files)))
    total = sum(file.size for file in files)
    n_done = 0
    paths = []
    for file in files:
        seen = partial(_progress_of_all, progress, n_done, total)
        fetch_one = _by_client if file.sha256 is None else _by_address
        paths.append(fetch_one(place, file, seen))
        n_done += file.size
        progress(n_done, total)
    return Fetched(path=paths[0], files=tuple(paths), sha256=files[0].sha256)


def _progress_of_all(progress: Progress, n_before: int, total: int, n_done: int, _: int) -> None:
    progress(min(n_before + n_done, total), total)


def _by_address(place: _Place, file: HubFile, progress: Progress) -> Path:
    """A large file, whose digest is known."""
    from huggingface_hub import get_token, hf_hub_url

    digest, source, path, token = file.sha256 or "", place.source, place.path(file), get_token()
    cached = place.cached(file)
    if cached is not None and sha256_of(cached) != digest:
        _delete(cached)
        cached = None
    if cached is None:
        with only_one(place.lock(file), f"file {file.name} of {source.repository}"):
            download(
                hf_hub_url(source.repository, file.name, revision=place.commit),
                path,
                progress,
                size_bytes=file.size,
                sha256=digest,
                headers={"Authorization": f"Bearer {token}"} if token else {},
            )
    if place.folder is not None:
        return path
    linked = _by_client(place, file, progress)
    if linked.resolve() not in {path.resolve(), cached and cached.resolve()}:
        if sha256_of(linked) != digest:
            _delete(linked)
            raise PullError(
                f"{file.name} of {source.repository} has changed while it was fetched: try again"
            )
        path.unlink(missing_ok=True)  # where there are no links, the client has made a copy
    return linked


def _delete(link: Path) -> None:
    for path in {link.resolve(), link}:
        path.unlink(missing_ok=True)


def _by_client(place: _Place, file: HubFile, progress: Progress) -> Path:
    """A small file, or the link to one that is in the cache. One that does not come as long as it
    was announced is asked for once more."""
    from huggingface_hub import hf_hub_download

    ask = partial(
        hf_hub_download,
        place.source.repository,
        file.name,
        revision=place.source.revision,
        local_dir=place.folder,
        tqdm_class=_bar(progress, file.size),
    )
    try:
        return Path(ask())
    except OSError as error:
        if _IS_OF_ANOTHER_SIZE not in str(error):
            raise
    return Path(ask(force_download=True))


def _from_cache(source: HubSource) -> Fetched:
    """What an earlier download has left, without the network."""
    folder = _snapshot(source)
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [HubFile(name, (folder / name).stat().st_size, None) for name in names]
    try:
        chosen = choose(source, files, 1 << 62)
    except PullError as error:
        raise not_here(source) from error
    paths = tuple(folder / file.name for file in chosen)
    return Fetched(path=paths[0], files=paths)


def _snapshot(source: HubSource) -> Path:
    """The folder of the cache with the files of a revision, which may not be all."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            source.repository, revision=source.revision, local_files_only=True
        )
    except errors.LocalEntryNotFoundError as error:
        # Newer clients say where it is when they know that files are missing: one is enough here.
        incomplete = getattr(error, "snapshot_path", None)
        if incomplete is None:
            raise
        folder = incomplete
    return Path(folder)


def _bar(progress: Progress, total: int) -> Any:
    """The kind of progress bar that the client is to report to."""
    from tqdm import tqdm

    def update(self: Any, n: float | None = 1) -> None:
        self.n += n or 0
        progress(int(self.n), total)

    def initialize(self: Any, *_: Any, initial: int = 0, **__: Any) -> None:
        tqdm.__init__(self, initial=initial, disable=True)
        self.n = initial

    return type("Bar", (tqdm,), {"__init__": initialize, "update": update})
