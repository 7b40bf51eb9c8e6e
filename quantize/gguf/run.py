"""Quantizes a GGUF file: looks first, writes it completely or not at all, and checks it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, read_header
from spillover.quantize.child import Child, Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.guard_rails import check_plan, notes_on, refusals, uses_importance
from spillover.quantize.gguf.native import plan, quantize
from spillover.quantize.gguf.recipe import Plan, QuantizeOrder, Recipe
from spillover.quantize.gguf.source_digest import KEY, UNKNOWN, SourceDigest, sha256
from spillover.quantize.gguf.verify import VerifyOrder, verify
from spillover.quantize.new_file import check_place, flushing, new_file
from spillover.quantize.texts import OWN_TEXT
from spillover.quantize.verification import Verdict, judge, most_divergence

if TYPE_CHECKING:
    from spillover.quantize.gguf.imatrix import Calibrated

_MAX_TEXT_BYTES = 127
"""Of a key or a value that llama.cpp adds to the metadata."""
_ADVICE = "choose a type with more bits, give an importance matrix, or raise --max-divergence"
_OURS = ("spillover.", "quantize.imatrix.")
"""What the keys begin with that say how a file was quantized."""


class Quantized(Struct, frozen=True, kw_only=True):
    """What was written, or would be."""

    path: Path
    size_bytes: int
    bits_per_weight: float
    types: dict[str, int]
    """By type: the number of tensors."""
    verdict: Verdict | None
    """None: not compared with its source."""
    notes: tuple[str, ...]
    """What the user should know."""
    refusals: tuple[str, ...] = ()
    """Why run() would not write it."""


def preview(source: Path, target: Path, recipe: Recipe, *, n_threads: int) -> Quantized:
    """What run() would write, and why it would not. Raises QuantizeError."""
    with Child() as child:
        planned = _plan(child, source, target, recipe, n_threads)
    found = [*refusals(source, recipe, planned)]
    try:
        check_place(target, planned.size_bytes)
    except QuantizeError as error:
        found.append(str(error))
    made = _described(target, recipe, planned, None, planned.size_bytes)
    return msgspec.structs.replace(made, refusals=tuple(found))


def run(
    source: Path,
    target: Path,
    recipe: Recipe,
    progress: Progress,
    *,
    n_threads: int,
    most: float | None = None,
    is_checked: bool = True,
) -> Quantized:
    """Write *target* completely or not at all.

    Unless *is_checked* is False, it must load, write 16 tokens, and stay within *most* nats of mean
    divergence from *source* (None: as usual for its bits). Raises QuantizeError.
    """
    verdict = None
    with Child() as child:
        digest = SourceDigest(source)
        planned = _plan(child, source, target, recipe, n_threads)
        check_plan(source, recipe, planned)
        asked = recipe
        if not uses_importance(planned):
            # llama.cpp may choose other types without a matrix; then it gets the useless one.
            plain = msgspec.structs.replace(recipe, imatrix=None, is_calibrated=False)
            if _types(_plan(child, source, target, plain, n_threads)) == _types(planned):
                recipe = plain
        with (
            new_file(target, planned.size_bytes) as scratch,
            _calibrated(child, source, recipe, progress, n_threads=n_threads) as recipe,
        ):
            order = QuantizeOrder(
                source=source,
                target=scratch,
                recipe=recipe,
                n_threads=n_threads,
                metadata=_provenance(source, recipe),
            )
            _quantize(child, order, progress)
            _check_tensors(scratch, planned)
            progress("reading the source", 0, 1)
            digest.write_into(scratch)
            progress("reading the source", 1, 1)
            if is_checked:
                check = VerifyOrder(source=source, target=scratch, n_threads=n_threads)
                verdict = child.call(verify, check, progress, scratch=scratch)
                most = most_divergence(planned.bits_per_weight) if most is None else most
                judge(verdict, most, _ADVICE)
    return _described(target, asked, planned, verdict, target.stat().st_size)


def _quantize(child: Child, order: QuantizeOrder, progress: Progress) -> None:
    with flushing(order.target) as flush:

        def step(what: str, n_done: int, n_all: int) -> None:
            progress(what, n_done, n_all)
            flush()

        child.call(quantize, order, step, scratch=order.target)


def make_imatrix(
    source: Path, target: Path, text: Path | None, progress: Progress, *, n_threads: int
) -> Calibrated:
    """Write an importance matrix into *target*, from *text* or the text that comes with the
    package. Raises QuantizeError."""
    _header(source)
    with new_file(target) as scratch, Child() as child:
        return _calibrate(child, source, scratch, text, progress, n_threads)


@contextmanager
def _calibrated(
    child: Child, source: Path, recipe: Recipe, progress: Progress, *, n_threads: int
) -> Generator[Recipe]:
    """The recipe with an importance matrix, if it shall have one."""
    if recipe.imatrix is not None or not recipe.is_calibrated:
        yield recipe
        return
    with tempfile.TemporaryDirectory(prefix="spillover-") as folder:
        path = Path(folder) / "imatrix.gguf"
        _calibrate(child, source, path, None, progress, n_threads)
        yield msgspec.structs.replace(recipe, imatrix=path)


def _calibrate(
    child: Child,
    source: Path,
    target: Path,
    text: Path | None,
    progress: Progress,
    n_threads: int,
) -> Calibrated:
    from spillover.quantize.gguf.imatrix import ImatrixOrder, calibrate  # slow

    order = ImatrixOrder(source=source, target=target, text=text or OWN_TEXT, n_threads=n_threads)
    return child.call(calibrate, order, progress, scratch=target)


def _plan(child: Child, source: Path, target: Path, recipe: Recipe, n_threads: int) -> Plan:
    _check(_header(source), source, recipe)
    order = QuantizeOrder(source=source, target=target, recipe=recipe, n_threads=n_threads)
    return child.call(plan, order, lambda what, n_done, n_all: None)


def _types(planned: Plan) -> list[str]:
    return [tensor.planned for tensor in planned.tensors]


def _header(path: Path) -> GgufHeader:
    try:
        return read_header(path)
    except ModelFileError as error:
        raise QuantizeError(str(error)) from error


def _check(header: GgufHeader, source: Path, recipe: Recipe) -> None:
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise QuantizeError(
            f"{source} is one part of a split model: merge them first "
            "(llama.cpp: llama-gguf-split --merge FIRST-PART TARGET)"
        )
    if recipe.tensors and recipe.file_type in ("F32", "F16", "BF16"):
        raise QuantizeError(
            f"llama.cpp gives single tensors no other type in a {recipe.file_type} file: name a "
            "quantized type"
        )
    for pattern, _ in recipe.tensors:
        try:
            is_found = any(re.search(pattern, tensor.name) for tensor in header.tensors)
        except re.error as error:
            raise QuantizeError(f"{pattern!r} is no regular expression: {error}") from error
        if not is_found:
            names = ", ".join(tensor.name for tensor in header.tensors[:3])
            raise QuantizeError(
                f"no tensor has a name with {pattern!r}: the first of {len(header.tensors)} are "
                f"{names}"
            )


def _check_tensors(path: Path, planned: Plan) -> None:
    """Check that the new file has the tensors of the old one."""
    found = {tensor.name: tensor.shape for tensor in _header(path).tensors}
    if found != {tensor.name: tensor.shape for tensor in planned.tensors}:
        raise QuantizeError("llama.cpp has not written all tensors: report this defect")


def _provenance(source: Path, recipe: Recipe) -> dict[str, str | int]:
    """Where the new file comes from, for its metadata; also under llama.cpp's own names."""
    found: dict[str, str | int] = {
        **_emptied(_header(source)),
        "spillover.source.name": source.name,
        KEY: UNKNOWN,
        "spillover.tools": f"spillover {version('spillover')}, "
        f"llama-cpp-python {version('llama-cpp-python')}",
        "spillover.recipe.type": recipe.file_type,
    }
    for place, (pattern, kind) in enumerate(recipe.tensors):
        found[f"spillover.recipe.tensor.{place}"] = f"{pattern}={kind}"
    if recipe.imatrix is not None:
        from spillover.quantize.gguf.imatrix_file import read_imatrix

        imatrix = read_imatrix(recipe.imatrix)
        found["spillover.recipe.imatrix_sha256"] = sha256(recipe.imatrix)
        found["quantize.imatrix.file"] = recipe.imatrix.name
        found["quantize.imatrix.dataset"] = ", ".join(imatrix.datasets)
        found["quantize.imatrix.entries_count"] = len(imatrix.sums)
        found["quantize.imatrix.chunks_count"] = imatrix.n_chunks
    return {key: _cut(value) if isinstance(value, str) else value for key, value in found.items()}


def _emptied(header: GgufHeader) -> dict[str, str | int]:
    """What the source says of how it was quantized itself, without the values: llama.cpp copies
    all keys, and removes none."""
    return {
        key: "" if isinstance(value, str) else 0
        for key, value in header.metadata.items()
        if key.startswith(_OURS) and len(key.encode()) <= _MAX_TEXT_BYTES
    }


def _cut(text: str) -> str:
    return text.encode()[:_MAX_TEXT_BYTES].decode("utf-8", "ignore")


def _described(
    target: Path, recipe: Recipe, planned: Plan, verdict: Verdict | None, size_bytes: int
) -> Quantized:
    types: dict[str, int] = {}
    for tensor in planned.tensors:
        types[tensor.planned] = types.get(tensor.planned, 0) + 1
    return Quantized(
        path=target,
        size_bytes=size_bytes,
        bits_per_weight=planned.bits_per_weight,
        types=types,
        verdict=verdict,
        notes=tuple(notes_on(recipe, planned)),
    )
