"""Reads evaluations that were written before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.evaluate import Evaluation

_MOST_BYTES = 16 << 20


def read_evaluations(paths: Sequence[Path]) -> Evaluation:
    """All candidates of *paths* in one evaluation, with the device of those whose speed was
    measured; without speed and memory where the devices differ. Raises QuantizeError."""
    found = [_read(path) for path in paths]
    first = found[0]
    for path, one in zip(paths, found, strict=True):
        if _subject(one) != _subject(first):
            raise QuantizeError(
                f"{path} has another reference, text or chunk than {paths[0]}: their losses cannot "
                "be compared"
            )
    measured = [one for one in found if any(each.model.cost for each in one.candidates)]
    joined = replace(
        measured[0] if measured else first,
        candidates=tuple(candidate for one in found for candidate in one.candidates),
        libraries=_libraries(found),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )
    devices = list(dict.fromkeys((one.device, one.n_threads) for one in measured))
    return joined if len(devices) < 2 else _without_costs(joined, devices)


def _subject(evaluation: Evaluation) -> tuple[object, ...]:
    """What losses that are compared have in common."""
    digests = evaluation.reference_digest, evaluation.text_digest
    return *digests, evaluation.n_ctx, evaluation.n_chunks


def _libraries(found: Sequence[Evaluation]) -> dict[str, str]:
    """The versions of each library, all of them where they differ."""
    names = {name: None for one in found for name in one.libraries}
    versions = {name: {one.libraries.get(name, ""): None for one in found} for name in names}
    return {name: " and ".join(filter(None, seen)) for name, seen in versions.items()}


def _without_costs(evaluation: Evaluation, devices: Sequence[tuple[str, int]]) -> Evaluation:
    named = "; ".join(f"{device}, {n} threads" for device, n in devices)
    note = f"Speed and memory are left out: they come from different devices ({named})."
    return replace(
        evaluation,
        reference=replace(evaluation.reference, cost=None),
        candidates=tuple(
            replace(one, model=replace(one.model, cost=None)) for one in evaluation.candidates
        ),
        notes=(*evaluation.notes, note),
    )


def _read(path: Path) -> Evaluation:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        evaluation = msgspec.json.decode(content, type=Evaluation)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise QuantizeError(
            f"{path} is no evaluation: `spillover quantize eval --json {path}` writes one ({error})"
        ) from error
    if not evaluation.candidates:
        raise QuantizeError(f"{path} has no candidates: evaluate at least one")
    return evaluation
