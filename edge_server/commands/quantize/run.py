"""spillover quantize run: write a GGUF file with fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange
from spillover.quantize.gguf.file_types import FILE_TYPES, TENSOR_TYPES

if TYPE_CHECKING:
    from spillover.quantize.gguf.run import Quantized

_EPILOG = f"""\b
Examples:
  spillover quantize run model-F16.gguf model-Q4_K_M.gguf
  spillover quantize run model-F16.gguf small.gguf --type IQ3_M --imatrix auto
  spillover quantize run F16.gguf m.gguf --tensor token_embd=Q8_0 --tensor attn_v=Q6_K
  spillover quantize run model-F16.gguf m.gguf --type Q3_K_M --dry-run

Types, most bits first: {", ".join(FILE_TYPES)}. See docs/quantize.md.
"""


def _tensor_types(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """PATTERN=TYPE, taken apart."""
    found = []
    for text in given:
        pattern, _, kind = text.rpartition("=")
        if not pattern or kind.upper() not in TENSOR_TYPES:
            raise click.BadParameter(
                f"{text!r} is not PATTERN=TYPE with one of the types {', '.join(TENSOR_TYPES)}"
            )
        found.append((pattern, kind.upper()))
    return tuple(found)


@click.command("run", epilog=_EPILOG)
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "file_type",
    type=click.Choice(list(FILE_TYPES), case_sensitive=False),
    metavar="TYPE",
    default="Q4_K_M",
    show_default=True,
    help="How the weights are stored.",
)
@click.option(
    "--imatrix",
    metavar="FILE",
    help="Importance matrix, in llama.cpp's format; auto: compute one first.",
)
@click.option(
    "--tensor",
    "tensors",
    metavar="PATTERN=TYPE",
    multiple=True,
    callback=_tensor_types,
    help="Type of the tensors whose names contain a regular expression; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, or why not.")
@click.option(
    "--allow-requantize",
    is_flag=True,
    help="Round weights once more that are quantized already.",
)
@click.option(
    "--max-divergence",
    type=FiniteRange(min=0, max=1e6),
    help="Mean divergence from the source's predictions, in nats, beyond which the file is not "
    "kept.  [default: by type]",
)
@click.option("--check/--no-check", default=True, help="Load the new file and compare it.")
@click.option(
    "--threads",
    type=click.IntRange(1, 512),
    help="Threads to compute with.  [default: all usable cores]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    source: Path,
    target: Path,
    file_type: str,
    imatrix: str | None,
    tensors: tuple[tuple[str, str], ...],
    dry_run: bool,
    allow_requantize: bool,
    max_divergence: float | None,
    check: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize the GGUF file SOURCE into the new file TARGET.

    The new file is loaded, has to write, and is compared with the source before it gets its name.
    """
    from spillover.quantize.gguf.recipe import Recipe  # slow
    from spillover.quantize.gguf.run import preview
    from spillover.quantize.gguf.run import run as quantize

    recipe = Recipe(
        file_type=file_type,
        tensors=tensors,
        imatrix=None if imatrix in (None, "auto") else Path(imatrix),
        is_calibrated=imatrix == "auto",
        allow_requantize=allow_requantize,
    )
    if dry_run:
        made = preview(source, target, recipe)
    else:
        with shown_progress(False) as progress:
            made = quantize(
                source,
                target,
                recipe,
                progress,
                n_threads=threads,
                most=max_divergence,
                is_checked=check,
            )
    for note in made.notes:
        print_note(f"spillover: warning: {note}")
    if check and not dry_run and made.verdict is None:
        print_note("spillover: the new file makes vectors: it loads, and was not compared further")
    for reason in made.refusals:
        print_note(f"spillover: would be refused: {reason}")
    if as_json:
        print_json(made, on_one_line=True)
    else:
        print_result(_line(made))
    if made.refusals:
        raise click.exceptions.Exit(1)


def _line(made: Quantized) -> str:
    types = ", ".join(f"{n} {kind}" for kind, n in made.types.items())
    line = (
        f"{made.path}: {made.size_bytes / 1e6:.1f} MB, {made.bits_per_weight:.2f} bits per weight "
        f"({types})"
    )
    if made.verdict is None:
        return line
    return f"{line}\nKL divergence from the source: {made.verdict.divergence:.4f} nats on average"
