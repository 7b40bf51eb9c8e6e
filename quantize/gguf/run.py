"""Quantizes a GGUF file: looks first, writes it completely or not at all, and checks it."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.gguf_model import GgufModel, read_model
from spillover.quantize.child import Child, Progress
from spillover.quantize.errors import QuantizeError
from spillover.quantize.gguf.guard_rails import check_plan, notes_on, refusals, uses_importance
from spillover.quantize.gguf.native import plan, quantize
from spillover.quantize.gguf.recipe import ALIGNMENT, Plan, QuantizeOrder, Recipe
from spillover.quantize.gguf.source_digest import KEY, UNKNOWN, SourceDigest, sha256
from spillover.quantize.gguf.verify import VerifyOrder, verify
from spillover.quantize.new_file import check_place, flushing, new_file
from spillover.quantize.texts import OWN_TEXT
from spillover.quantize.verification import Verdict, judge, most_divergence

if TYPE_CHECKING:
    from spillover.quantize.gguf.imatrix import Calibrated

_MAX_TEXT_BYTES = 127
"""Of a key or a value that llama.cpp adds to the metadata."""
_ALIGNMENT_KEY = "general.alignment"
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


def preview(source: Path, target: Path, recipe: Recipe) -> Quantized:
    """What run() would write, and why it would not. Raises QuantizeError."""
    with Child() as child:
        model = _read(source)
        _check(model, recipe)
        planned = _plan(child, model, target, recipe)
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
    n_threads: int | None = None,
    most: float | None = None,
    is_checked: bool = True,
) -> Quantized:
    """Write *target* completely or not at all. *n_threads*: None for all usable cores.

    Unless *is_checked* is False, it must load, write 16 tokens, and stay within *most* nats of mean
    divergence from *source* (None: as usual for its bits). Raises QuantizeError.
    """
    verdict = None
    with Child() as child:
        model = _read(source)
        digest = SourceDigest(model.paths)
        _check(model, recipe)
        n_threads = n_threads or _n_cores()
        metadata = _provenance(model, recipe)
        planned = _plan(child, model, target, recipe)
        check_plan(source, recipe, planned)
        with (
            new_file(target, planned.size_bytes) as scratch,
            _used(child, model.path, recipe, planned, progress, n_threads) as used,
        ):
            order = QuantizeOrder(
                source=model.path,
                target=scratch,
                recipe=used,
                n_threads=n_threads,
                metadata=_texts_cut({**metadata, **_importance(used)}),
            )
            _quantize(child, order, progress)
            _check_tensors(scratch, planned)
            progress("reading the source", 0, 1)
            digest.write_into(scratch)
            progress("reading the source", 1, 1)
            if is_checked:
                check = VerifyOrder(source=model.path, target=scratch, n_threads=n_threads)
                verdict = child.call(verify, check, progress, scratch=scratch)
                most = most_divergence(planned.bits_per_weight) if most is None else most
                judge(verdict, most, _ADVICE)
    return _described(target, recipe, planned, verdict, target.stat().st_size)


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
    model = _read(source)
    with new_file(target) as scratch, Child() as child:
        return _calibrate(child, model.path, scratch, text, progress, n_threads)


@contextmanager
def _used(
    child: Child,
    source: Path,
    recipe: Recipe,
    planned: Plan,
    progress: Progress,
    n_threads: int,
) -> Generator[Recipe]:
    """The recipe as llama.cpp gets it: with an importance matrix where it has one and uses it."""
    if not uses_importance(planned):
        # llama.cpp may choose other types without a matrix, but it need not be a real one.
        yield msgspec.structs.replace(recipe, imatrix=None, is_calibrated=recipe.has_imatrix)
        return
    if recipe.imatrix is not None or not recipe.is_calibrated:
        yield recipe
        return
    import tempfile  # slow

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


def _plan(child: Child, model: GgufModel, target: Path, recipe: Recipe) -> Plan:
    order = QuantizeOrder(source=model.path, target=target, recipe=recipe, n_threads=1)
    return child.call(plan, order, lambda what, n_done, n_all: None)


def _n_cores() -> int:
    from spillover.runtime.machine.device import n_cores_usable  # slow

    return n_cores_usable()


def _read(path: Path) -> GgufModel:
    try:
        return read_model(path)
    except ModelFileError as error:
        raise QuantizeError(str(error)) from error


def _check(model: GgufModel, recipe: Recipe) -> None:
    if recipe.tensors and recipe.file_type in ("F32", "F16", "BF16"):
        raise QuantizeError(
            f"llama.cpp gives single tensors no other type in a {recipe.file_type} file: name a "
            "quantized type"
        )
    for pattern, _ in recipe.tensors:
        try:
            is_found = any(re.search(pattern, tensor.name) for tensor in model.tensors)
        except re.error as error:
            raise QuantizeError(f"{pattern!r} is no regular expression: {error}") from error
        if not is_found:
            names = ", ".join(tensor.name for tensor in model.tensors[:3])
            raise QuantizeError(
                f"no tensor has a name with {pattern!r}: the first of {len(model.tensors)} are "
                f"{names}"
            )


def _check_tensors(path: Path, planned: Plan) -> None:
    """Check that the new file has the tensors of the old one."""
    found = {tensor.name: tensor.shape for tensor in _read(path).tensors}
    if found != {tensor.name: tensor.shape for tensor in planned.tensors}:
        raise QuantizeError("llama.cpp has not written all tensors: report this defect")


def _provenance(model: GgufModel, recipe: Recipe) -> dict[str, str | int]:
    """Where the new file comes from, for its metadata."""
    from importlib.metadata import version  # slow

    found: dict[str, str | int] = {
        **_emptied(model),
        "spillover.source.name": model.path.name,
        KEY: UNKNOWN,
        "spillover.tools": f"spillover {version('spillover')}, "
        f"llama-cpp-python {version('llama-cpp-python')}",
        "spillover.recipe.type": recipe.file_type,
    }
    if _ALIGNMENT_KEY in model.metadata:
        found[_ALIGNMENT_KEY] = ALIGNMENT  # llama.cpp copies the source's, and pads by its own
    for place, (pattern, kind) in enumerate(recipe.tensors):
        found |= _in_parts(f"spillover.recipe.tensor.{place}", f"{pattern}={kind}")
    return found


def _in_parts(key: str, text: str) -> dict[str, str | int]:
    """A text of any length under *key*; what is too long goes on under KEY.1, KEY.2, …"""
    found: dict[str, str | int] = {}
    while text or not found:
        part = _cut(text)
        found[f"{key}.{len(found)}" if found else key] = part
        text = text[len(part) :]
    return found


def _importance(recipe: Recipe) -> dict[str, str | int]:
    """The importance matrix that is used, for the metadata; also under llama.cpp's own names."""
    if recipe.imatrix is None:
        return {}
    from spillover.quantize.gguf.imatrix_file import read_imatrix

    imatrix = read_imatrix(recipe.imatrix)
    return {
        "spillover.recipe.imatrix_sha256": sha256(recipe.imatrix),
        "quantize.imatrix.file": recipe.imatrix.name,
        "quantize.imatrix.dataset": ", ".join(imatrix.datasets),
        "quantize.imatrix.entries_count": len(imatrix.sums),
        "quantize.imatrix.chunks_count": imatrix.n_chunks,
    }


def _emptied(model: GgufModel) -> dict[str, str | int]:
    """What the source says of how it was quantized itself, without the values: llama.cpp copies
    all keys, and removes none."""
    return {
        key: "" if isinstance(value, str) else 0
        for key, value in model.metadata.items()
        if key.startswith(_OURS) and len(key.encode()) <= _MAX_TEXT_BYTES
    }


def _texts_cut(metadata: dict[str, str | int]) -> dict[str, str | int]:
    return {
        key: value if isinstance(value, int) else _cut(value) for key, value in metadata.items()
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
