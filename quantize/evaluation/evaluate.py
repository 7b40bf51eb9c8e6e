"""Compares candidates with a reference: what they lose, how large and how fast they are."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from pathlib import Path

from msgspec import Struct

from spillover.models.at_path import stem_of
from spillover.models.onnx_folder import is_onnx
from spillover.quantize.child import Progress, call_in_child
from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.cost import Cost, CostOrder, measure_cost
from spillover.quantize.evaluation.loss import Loss
from spillover.quantize.evaluation.model_files import files_of, size_bytes
from spillover.quantize.evaluation.text_reading import ReadingOrder, read_together
from spillover.runtime.conversions.record import library_version
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.machine.device import describe_device

N_CTX = 512
"""llama-perplexity's."""


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
    """Compare *candidates* with *reference* on *text*, in processes that end with this one. Raises
    QuantizeError."""
    for path in (reference, *candidates):
        files_of(path)  # or what is missing would show after the others were read
    order = ReadingOrder(reference=reference, candidates=tuple(candidates), text=text, n_ctx=n_ctx)
    found = call_in_child(read_together, order, progress)
    costs = list(_costs([reference, *candidates], progress, measures=measures_cost))
    device = describe_device()
    return Evaluation(
        reference=_model(reference, costs[0]),
        reference_digest=_digest(reference),
        candidates=tuple(
            Candidate(model=_model(path, cost), loss=loss)
            for path, cost, loss in zip(candidates, costs[1:], found.losses, strict=True)
        ),
        text=text_name,
        text_digest=hashlib.sha256(text.encode()).hexdigest(),
        n_ctx=found.n_ctx,
        n_chunks=found.n_chunks,
        device=f"{device.cpu}, {device.os}",
        n_threads=device.n_threads_default,
        libraries={
            name: library_version(name) for name in ("llama-cpp-python", "onnxruntime", "spillover")
        },
        notes=found.notes,
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


def _costs(paths: Sequence[Path], progress: Progress, *, measures: bool) -> Generator[Cost | None]:
    for i, path in enumerate(paths):
        if measures:
            progress("measuring speed and memory", i, len(paths))
        yield call_in_child(measure_cost, CostOrder(path=path), _silent) if measures else None
    if measures:
        progress("measuring speed and memory", len(paths), len(paths))


def _silent(what: str, n_done: int, n_all: int) -> None:
    """A measurement is one step."""
