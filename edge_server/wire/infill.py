"""Prompts that ask a model to fill in the middle between two texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

from msgspec import Meta, Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.engine import FimTokens, TextEngine

MAX_FILES = 256


class ExtraFile(Struct, frozen=True):
    """A file that the model may look at."""

    text: str
    filename: str = "tmp"


Files = Annotated[tuple[ExtraFile, ...], Meta(max_length=MAX_FILES)]


def infill_prompt(
    engine: TextEngine, prefix: str, suffix: str, *, files: Files = (), begun: str = ""
) -> tuple[int, ...]:
    """Token ids: prefix, suffix, and *begun*, the beginning of what goes between.

    A 400 when the model has no tokens for it. Order and tokens are those of the models'
    papers: Bavarian et al., 2022, and for repositories Hui et al., 2024 (Qwen2.5-Coder).
    """
    fim = engine.card.fim
    if fim is None:
        raise bad_request(
            f"{engine.name} cannot fill in the middle: it has no tokens for that", "suffix"
        )

    def ids(text: str) -> tuple[int, ...]:
        # Control tokens written out in the files' texts stay texts.
        return engine.tokenize(text, add_special=False, parse_special=False) if text else ()

    return (
        *engine.tokenize("", add_special=True, parse_special=False),
        *_files(ids, fim, files),
        fim.prefix,
        *ids(prefix),
        fim.suffix,
        *ids(suffix),
        fim.middle,
        *ids(begun),
    )


def _files(ids: Callable[[str], tuple[int, ...]], fim: FimTokens, files: Files) -> Iterator[int]:
    """Other files first, in the form for repositories where the model knows it."""
    if not files:
        return
    if fim.repo is None or fim.file is None:
        for file in files:
            yield from ids(f"\n\n--- {file.filename} ---\n\n{file.text}")
        return
    yield fim.repo
    yield from ids("repository\n")
    for file in files:
        yield fim.file
        yield from ids(f"{file.filename}\n{file.text}")
    yield fim.file
    yield from ids("filename\n")
