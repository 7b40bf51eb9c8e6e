"""Lets models read a text together, chunk by chunk: nothing is stored but the measures.

The chunks and the positions are those of `llama-perplexity --kl-divergence`: chunks of n_ctx
tokens that know nothing of each other, of which the second half is scored.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from msgspec import Struct

from spillover.quantize.child import Progress
from spillover.quantize.divergence import Positions, compare, join
from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.loss import Loss, loss_of
from spillover.quantize.evaluation.model_files import size_bytes
from spillover.quantize.evaluation.readers import TextReader, open_reader
from spillover.runtime.backend import Tokens
from spillover.runtime.machine.device import available_memory

_PACKED = 2
"""Memory of a loaded model, as a multiple of its size: both libraries may pack weights anew."""


class ReadingOrder(Struct, frozen=True, kw_only=True):
    """The models, and what they read."""

    reference: Path
    candidates: tuple[Path, ...]
    text: str
    n_ctx: int
    """Most tokens of a chunk."""


class Reading(Struct, frozen=True, kw_only=True):
    """What was found."""

    losses: tuple[Loss, ...]
    """Of each candidate."""
    n_ctx: int
    n_chunks: int
    notes: tuple[str, ...]
    """What a reader of the numbers has to know."""


def read_together(order: ReadingOrder, progress: Progress) -> Reading:
    """Compare what the models predict: a child's part, as one native call may take minutes. Raises
    QuantizeError, ModelError."""
    losses: list[Loss] = []
    with closing(open_reader(order.reference, order.n_ctx)) as wanted:
        chunks = chunks_of(wanted, order.text)
        notes = [*wanted.notes]
        for together in _groups(order.candidates):
            with ExitStack() as stack:
                found = [
                    stack.enter_context(closing(open_reader(path, wanted.n_ctx)))
                    for path in together
                ]
                for path, reader in zip(together, found, strict=True):
                    _check(reader, wanted, path, order.text)
                    notes += reader.notes
                read = _positions(wanted, found, chunks, progress)
                losses += [loss_of(own, p.name) for own, p in zip(read, together, strict=True)]
        return Reading(
            losses=tuple(losses), n_ctx=wanted.n_ctx, n_chunks=len(chunks), notes=tuple(notes)
        )


def chunks_of(reader: TextReader, text: str) -> list[Tokens]:
    """The whole chunks of the text. Each begins as a text does."""
    opening, tokens, n = reader.tokenize(""), reader.tokenize(text), reader.n_ctx
    if len(tokens) < n:
        raise QuantizeError(
            f"the text has {len(tokens)} tokens, and a chunk has {n}: give a longer text, or a "
            "smaller --n-ctx"
        )
    chunks = [tokens[start : start + n].copy() for start in range(0, len(tokens) - n + 1, n)]
    # What a tokenizer puts behind a text stands in the empty text, too.
    n_common = min(len(opening), n)
    is_same = opening[:n_common] == tokens[:n_common]
    n_before = int(is_same.cumprod().sum())
    for chunk in chunks:
        chunk[:n_before] = opening[:n_before]
    return chunks


def _groups(paths: Sequence[Path]) -> Generator[list[Path]]:
    """Candidates that fit into memory together, beside as much again: the reference then reads each
    chunk once for all of them."""
    room = available_memory() // (2 * _PACKED)
    group: list[Path] = []
    for path in paths:
        if group and sum(map(size_bytes, [*group, path])) > room:
            yield group
            group = []
        group.append(path)
    yield group


def _check(reader: TextReader, reference: TextReader, path: Path, text: str) -> None:
    if reader.n_vocab != reference.n_vocab:
        raise QuantizeError(
            f"{path} has {reader.n_vocab} tokens and the reference {reference.n_vocab}: only "
            "models with one vocabulary can be compared"
        )
    if not np.array_equal(reader.tokenize(text), reference.tokenize(text)):
        raise QuantizeError(
            f"{path} cuts the text into other tokens than the reference: only models with one "
            "tokenizer can be compared"
        )
    if reader.n_ctx < reference.n_ctx:
        raise QuantizeError(
            f"{path} reads {reader.n_ctx} tokens at most, and chunks have {reference.n_ctx}: give "
            f"--n-ctx {reader.n_ctx}"
        )


def _positions(
    reference: TextReader, readers: Sequence[TextReader], chunks: list[Tokens], progress: Progress
) -> list[Positions]:
    parts: list[list[Positions]] = [[] for _ in readers]
    for i, chunk in enumerate(chunks):
        progress("reading the text", i, len(chunks))
        first = len(chunk) // 2
        wanted = reference.read(chunk, first)[:-1]
        for reader, own in zip(readers, parts, strict=True):
            own.append(compare(wanted, reader.read(chunk, first)[:-1], chunk[first + 1 :]))
    progress("reading the text", len(chunks), len(chunks))
    return [join(own) for own in parts]
