"""Reads evaluations that were written before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.evaluate import Candidate, Evaluation

_MOST_BYTES = 16 << 20


def read_evaluations(paths: Sequence[Path]) -> Evaluation:
    """All candidates of *paths* in one evaluation. Raises QuantizeError."""
    found = [_read(path) for path in paths]
    first, candidates = found[0], list[Candidate]()
    for path, one in zip(paths, found, strict=True):
        if _subject(one) != _subject(first):
            raise QuantizeError(
                f"{path} has another reference, text or chunk than {paths[0]}: their losses cannot "
                "be compared"
            )
        candidates += one.candidates
    return msgspec.structs.replace(first, candidates=tuple(candidates))


def _subject(evaluation: Evaluation) -> tuple[object, ...]:
    reference, n_chunks = evaluation.reference, evaluation.n_chunks
    return reference.name, reference.size_bytes, evaluation.text, evaluation.n_ctx, n_chunks


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
