"""Compares candidates with a reference: chunk by chunk, and nothing is stored but the measures.

The chunks and the positions are those of `llama-perplexity --kl-divergence`: chunks of n_ctx
tokens that know nothing of each other, of which the second half is scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from msgspec import Struct

from spillover.models.at_path import stem_of
from spillover.models.onnx_folder import is_onnx
from spillover.quantize.child import Progress, call_in_child
from spillover.quantize.divergence import Positions, compare, join
from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.cost import Cost, CostOrder, measure_cost
from spillover.quantize.evaluation.loss import Loss, loss_of
from spillover.quantize.evaluation.model_files import files_of, size_bytes
from spillover.quantize.evaluation.readers import TextReader, open_reader
from spillover.runtime.backend import Tokens
from spillover.runtime.conversions.record import library_version
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.machine.device import available_memory, describe_device

N_CTX = 512
"""llama-perplexity's."""
_PACKED = 2
"""Memory of a loaded model, as a multiple of its size: both libraries may pack weights anew."""


class Model(Struct, frozen=True, kw_only=True):
    """One model of an evaluation."""

    path: str
    engine: str
    """llama.cpp or ONNX Runtime."""
    size_bytes: int
    cost: Cost | None
    """None: not measured."""

    @property
    def name(self) -> str:
        """For display: the file's name without its ending, or the folder's."""
        path = Path(self.path)
        return stem_of(path.name) if path.suffix in (".gguf", ".onnx") else path.name


class Candidate(Struct, frozen=True, kw_only=True):
    """A model and what it loses against the reference."""

    model: Model
    loss: Loss


class Evaluation(Struct, frozen=True, kw_only=True):
    """Everything that was found, with what it depends on."""

    reference: Model
    reference_digest: str
    """Of its weights."""
    candidates: tuple[Candidate, ...]
    text: str
    """Its name."""
    text_digest: str
    """SHA-256."""
    n_ctx: int
    n_chunks: int
    device: str
    n_threads: int
    libraries: dict[str, str]
    notes: tuple[str, ...] = ()
    """Sentences: what else a reader of the numbers has to know."""


def evaluate(
    reference: Path,
    candidates: Sequence[Path],
    text: str,
    progress: Progress,
    *,
    text_name: str,
    n_ctx: int = N_CTX,
    measures_cost: bool = True,
) -> Evaluation:
    """Compare *candidates* with *reference* on *text*. Raises QuantizeError, ModelError."""
    for path in (reference, *candidates):
        files_of(path)  # or what is missing would show after the others were read
    losses: list[Loss] = []
    n_chunks = 0
    with closing(open_reader(reference, n_ctx)) as wanted:
        chunks = chunks_of(wanted, text)
        n_ctx, n_chunks = wanted.n_ctx, len(chunks)
        notes = list(wanted.notes)
        for together in _groups(candidates):
            with ExitStack() as stack:
                found = [stack.enter_context(closing(open_reader(p, n_ctx))) for p in together]
                for path, reader in zip(together, found, strict=True):
                    _check(reader, wanted, path, text)
                    notes += reader.notes
                read = _positions(wanted, found, chunks, progress)
                losses += [loss_of(own, p.name) for own, p in zip(read, together, strict=True)]
    costs = list(_costs([reference, *candidates], progress, measures=measures_cost))
    device = describe_device()
    return Evaluation(
        reference=_model(reference, costs[0]),
        reference_digest=_digest(reference),
        candidates=tuple(
            Candidate(model=_model(path, cost), loss=loss)
            for path, cost, loss in zip(candidates, costs[1:], losses, strict=True)
        ),
        text=text_name,
        text_digest=hashlib.sha256(text.encode()).hexdigest(),
        n_ctx=n_ctx,
        n_chunks=n_chunks,
        device=f"{device.cpu}, {device.os}",
        n_threads=device.n_threads_default,
        libraries={
            name: library_version(name) for name in ("llama-cpp-python", "onnxruntime", "spillover")
        },
        notes=tuple(notes),
    )


def _digest(path: Path) -> str:
    own = ModelDigest(files_of(path), None)
    digest = own.known() or own.compute(lambda: False)
    if digest is None:
        raise QuantizeError(f"{path} was changed while it was read: evaluate again")
    return digest


def _model(path: Path, cost: Cost | None) -> Model:
    return Model(
        path=str(path),
        engine="ONNX Runtime" if is_onnx(path) else "llama.cpp",
        size_bytes=size_bytes(path),
        cost=cost,
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


def _costs(paths: Sequence[Path], progress: Progress, *, measures: bool) -> Generator[Cost | None]:
    for i, path in enumerate(paths):
        if measures:
            progress("measuring speed and memory", i, len(paths))
        yield call_in_child(measure_cost, CostOrder(path=path), _silent) if measures else None
    if measures:
        progress("measuring speed and memory", len(paths), len(paths))


def _silent(what: str, n_done: int, n_all: int) -> None:
    """A measurement is one step."""
