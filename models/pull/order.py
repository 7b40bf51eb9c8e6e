"""Decides what a pull fetches, from where, and what the model will be called; fetches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from spillover.models import catalogue
from spillover.models.catalogue import Listed, ListedFile, listed_name
from spillover.models.pull.fetched import PullError
from spillover.models.pull.naming import free_name, name_of
from spillover.models.source import Source, parse_source, show
from spillover.models.store import ModelStore, PulledModel

Note = Callable[[str], None]
"""Called with a line for the user."""


class PullOptions(Struct, frozen=True, kw_only=True):
    """What holds for a pull. Sizes in bytes."""

    total_bytes: int
    """Memory of this device."""
    free_bytes: int
    """Memory that a model may take."""
    offline: bool = False
    name: str = ""
    """What to call the model; empty: after the catalogue or the file."""


class Order(Struct, frozen=True, kw_only=True):
    """One thing to fetch, and where from."""

    name: str
    sources: tuple[Source, ...]
    """In the order in which they are tried."""
    file: ListedFile | None = None
    """What the catalogue says of it."""
    licence: str = ""
    description: str = ""

    def is_of(self, model: PulledModel) -> bool:
        """Whether *model* came from one of the sources."""
        return model.source in map(show, self.sources)


def order_of(text: str, store: ModelStore, options: PullOptions, note: Note) -> Order:
    """What *text* names: a model of the catalogue, one that was pulled before, or a source. Its
    name is one that the model may have. Raises CatalogueError."""
    name, _, quantization = text.partition(":")
    listed = listed_name(name)
    if listed is not None:
        return _checked(_listed_order(listed, quantization, store, options, note), options)
    pulled = store.get(text)
    source = parse_source(text if pulled is None else pulled.source)
    if source is None:
        catalogue.find(text, store)  # raises with advice, unless it is here
        raise PullError(f"{text} is on this device already: there is nothing to pull")
    called = options.name or (pulled.name if pulled is not None else _own_name(source, store))
    return _checked(_source_order(called, source), options)


def _checked(order: Order, options: PullOptions) -> Order:
    """*order*, whose name is not that of another model in the catalogue."""
    taken = listed_name(order.name.partition(":")[0])
    if options.name and taken is not None and taken not in _tables_of(order):
        raise PullError(
            f"the catalogue has another model {taken}: choose another name with --name, such as "
            f"--name my-{order.name}"
        )
    return order


# --- of the catalogue ---------------------------------------------------------------------------


def _listed_order(
    name: str, quantization: str, store: ModelStore, options: PullOptions, note: Note
) -> Order:
    listed = catalogue.listed_models()[name]
    if not listed.files:
        raise PullError(f"{name} comes with Spillover: there is nothing to pull")
    file = listed.choose(
        quantization, total_bytes=options.total_bytes, free_bytes=options.free_bytes
    )
    called = f"{name}:{file.quantization}" if quantization else name
    held = None if quantization else _held_file(name, listed, store)
    if held is not None and held is not file:
        note(
            f"{name} is on this device as {held.quantization}. For {file.quantization}, which "
            f"would be chosen now: `spillover pull {name}:{file.quantization}`"
        )
    return _table_order(options.name or called, listed, held or file, _sources(held or file))


def _held_file(name: str, listed: Listed, store: ModelStore) -> ListedFile | None:
    """The file of a listed model that was pulled already, first under the model's own name."""
    models = sorted(store.all(), key=lambda model: model.name.casefold() != name.casefold())
    found = (
        file for model in models for file in listed.files if model.source in _shown_sources(file)
    )
    return next(found, None)


def _sources(file: ListedFile) -> tuple[Source, ...]:
    return tuple(source for text in file.sources if (source := parse_source(text)))


def _shown_sources(file: ListedFile) -> list[str]:
    return [show(source) for source in _sources(file)]


def _table_order(name: str, listed: Listed, file: ListedFile, sources: tuple[Source, ...]) -> Order:
    return Order(
        name=name,
        sources=sources,
        file=file,
        licence=listed.licence,
        description=listed.description,
    )


# --- of a source --------------------------------------------------------------------------------


def _source_order(name: str, source: Source) -> Order:
    """What to fetch from *source*; if the catalogue lists it, with what it says of the file."""
    for _, listed, file in _listed_files():
        if show(source) in _shown_sources(file):
            return _table_order(name, listed, file, (source,))
    return Order(name=name, sources=(source,))


def _own_name(source: Source, store: ModelStore) -> str:
    """The name of the model that was pulled from *source*, else one that no other model has."""
    models = store.all()
    before = next((model.name for model in models if model.source == show(source)), None)
    names = {model.name.casefold() for model in models}
    own = _tables_of(Order(name="", sources=(source,)))

    def is_taken(name: str) -> bool:
        listed = listed_name(name.partition(":")[0])
        return name.casefold() in names or (listed is not None and listed not in own)

    return before or free_name(name_of(source), is_taken)


def _tables_of(order: Order) -> set[str]:
    """The names of the catalogue's models that come from one of the sources."""
    wanted = set(map(show, order.sources))
    return {name for name, _, file in _listed_files() if wanted & set(_shown_sources(file))}


def _listed_files() -> Iterator[tuple[str, Listed, ListedFile]]:
    for name, listed in catalogue.listed_models().items():
        yield from ((name, listed, file) for file in listed.files)
