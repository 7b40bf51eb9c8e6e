"""spillover export: convert a model to another format."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from click.core import ParameterSource

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange
from spillover.models.libraries import has_llama
from spillover.quantize.onnx_export.options import (
    MAX_N_CTX,
    BlockSize,
    ExportOptions,
    HeadBits,
    Interface,
    KvCacheType,
    Weights,
)
from spillover.quantize.texts import calibration_text, read_text

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from spillover.quantize.gguf_export.export import GgufType
    from spillover.quantize.onnx_export.export import Check, Exported
    from spillover.quantize.onnx_export.graph.decoder import Progress
    from spillover.quantize.verification import Verdict

_DEFAULT = ExportOptions()
_TYPED = ParameterSource.COMMANDLINE
_CHOSEN = ("block", "head_bits", "eight_bits", "is_symmetric")
"""What --target-bpw decides."""
_BLOCKS: dict[str, BlockSize] = {str(size): size for size in get_args(BlockSize)}
_HEAD_BITS: dict[str, HeadBits] = {str(bits): bits for bits in get_args(HeadBits)}
_EPILOG = """\b
Examples:
  spillover export onnx ~/models/smollm2-135m smollm2-int4
  spillover export onnx ~/models/m-Q8_0.gguf m-onnx
  spillover export onnx m-F16.gguf m-small --target-bpw 5.5 --calibration auto
  spillover export gguf ~/models/smollm2-135m smollm2-135m.gguf
"""
_GGUF_EPILOG = """\b
Examples:
  spillover export gguf ~/models/smollm2-135m smollm2-135m.gguf
  spillover export gguf ~/models/qwen3-0.6b qwen3-F16.gguf --type F16

`spillover quantize run` makes it smaller. See docs/quantize.md.
"""
_ONNX_EPILOG = f"""{_EPILOG}
--weights faithful keeps Q4_0 and Q8_0 weights exactly, and all others in 8 bits. int4 is smaller,
and rounds weights that are quantized already once more. See docs/onnx.md.
"""


@click.group("export", epilog=_EPILOG)
def command() -> None:
    """Convert a model to another format."""


@command.command("gguf", epilog=_GGUF_EPILOG)
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    type=click.Choice(["auto", "F32", "F16", "BF16", "Q8_0"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="Number format of the matrices; auto: as in the source.",
)
@click.option("--check/--no-check", default=True, help="Load the new file and compare it.")
@click.option("--json", "as_json", is_flag=True, help="Describe the new file as JSON.")
def gguf(source: Path, target: Path, kind: GgufType, check: bool, as_json: bool) -> None:
    """Convert the Hugging Face folder SOURCE to the new GGUF file TARGET."""
    from spillover.quantize.gguf_export.export import export  # slow

    with shown_progress(False) as progress:
        exported = export(source, target, kind, progress, is_checked=check)
    for note in exported.notes:
        print_note(f"spillover: {note}")
    if as_json:
        print_json(exported, on_one_line=True)
    else:
        if check and exported.verdict is None:
            why = "memory is short" if has_llama() else "llama.cpp is not installed"
            print_note(f"spillover: the new file was not compared with its source: {why}")
        n_params, size = exported.n_params / 1e6, exported.size_bytes / 1e6
        line = f"{exported.path}: {n_params:.1f} million parameters, {size:.1f} MB"
        print_result(line + _divergence(exported.verdict))


@command.command("onnx", epilog=_ONNX_EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--weights",
    type=click.Choice(get_args(Weights)),
    default=None,
    help="Number format of the weights.  [default: faithful for a quantized GGUF file, else int4]",
)
@click.option(
    "--head-bits",
    type=click.Choice(list(_HEAD_BITS)),
    default=str(_DEFAULT.head_bits),
    show_default=True,
    help="Bits per weight of the embedding and the output head, with int4 and int8.",
)
@click.option("--symmetric", "is_symmetric", is_flag=True, help="Use int4 without zero points.")
@click.option(
    "--block",
    type=click.Choice(list(_BLOCKS)),
    default=str(_DEFAULT.block),
    show_default=True,
    help="Weights that share a scale, with int4 and int8; more is smaller and less exact.",
)
@click.option(
    "--keep-8bit",
    "eight_bits",
    multiple=True,
    metavar="PATTERN",
    help="Matrices that keep 8 bits with int4, such as 'layers.0.*' or '*.v_proj'; repeatable.",
)
@click.option(
    "--target-bpw",
    type=FiniteRange(3, 16),
    help="Bits per weight that int4 may have on average. What suffers most from 4 bits, measured "
    "with the calibration text, keeps 8; blocks have the size that suits.",
)
@click.option(
    "--calibration",
    metavar="FILE|auto",
    help="A text, or auto for one that comes with Spillover: int4 weights are rounded for what "
    "they multiply while the model reads it.",
)
@click.option(
    "--kv-cache",
    type=click.Choice(get_args(KvCacheType)),
    default=_DEFAULT.kv_cache,
    show_default=True,
    help="int8 takes a quarter of the memory for each token of context; needs --calibration.",
)
@click.option(
    "--half/--full",
    default=None,
    help="Compute in fp16 (for GPUs) or fp32.  [default: fp16 only with fp16 weights]",
)
@click.option(
    "--interface",
    type=click.Choice(get_args(Interface)),
    default=_DEFAULT.interface,
    show_default=True,
    help="ragged is fastest in Spillover; genai also runs in onnxruntime-genai.",
)
@click.option(
    "--n-ctx",
    type=int,
    help=f"Longest context, in tokens.  [default: the model's, at most {MAX_N_CTX}]",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with a tokenizer.json to use for a GGUF file.  [default: its own vocabulary]",
)
@click.option(
    "--external-data/--one-file",
    default=None,
    help="Put the weights in a second file, or all in one.  [default: by size]",
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Run the new model and compare it with its source.",
)
@click.option("--json", "as_json", is_flag=True, help="Describe the new model as JSON.")
def onnx(
    source: Path,
    target: Path,
    as_json: bool,
    head_bits: str,
    block: str,
    calibration: str | None,
    target_bpw: float | None,
    check: bool,
    **choices: Any,
) -> None:
    """Convert SOURCE to an ONNX model in the new folder TARGET.

    SOURCE is a Hugging Face folder or a GGUF file.
    """
    from spillover.quantize.onnx_export.export import export  # slow

    options = ExportOptions(
        head_bits=_HEAD_BITS[head_bits],
        block=_BLOCKS[block],
        calibration=_calibration_text(calibration),
        **choices,
    )
    if target_bpw is not None:
        options = _within(target_bpw, source, target, options)
    with _progress_bar() as progress:
        exported = export(source, target, options, progress, _check(source) if check else None)
    if check and exported.verdict is None:
        print_note("spillover: the new model was not compared with its source: memory is short")
    for note in exported.notes:
        print_note(f"spillover: {note}")
    if as_json:
        print_json(exported, on_one_line=True)
    else:
        print_result(_line(exported) + _divergence(exported.verdict))


def _check(source: Path) -> Check:
    """Compares what is made of *source* with it."""
    from spillover.quantize.export_check import ExportOrder, check_export  # slow

    def check(folder: Path, n_ctx: int, bits_per_weight: float) -> Verdict | None:
        order = ExportOrder(source=source, target=folder, n_ctx=n_ctx)
        return check_export(order, bits_per_weight, lambda what, n_done, n_all: None)

    return check


def _divergence(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return f"\nKL divergence from the source: {verdict.divergence:.4f} nats on average"


def _within(target_bpw: float, source: Path, place: Path, options: ExportOptions) -> ExportOptions:
    """*options* with 4 and 8 bits where a measurement says, if the model can be written to
    *place*."""
    from spillover.quantize.new_file import check_place
    from spillover.quantize.onnx_export.export import open_source  # slow
    from spillover.quantize.onnx_export.sizes import n_params
    from spillover.quantize.plan.mixed import mixed
    from spillover.quantize.plan.target import Target

    context = click.get_current_context()
    given = [name for name in _CHOSEN if context.get_parameter_source(name) is _TYPED]
    if options.weights not in (None, "int4") or given:
        raise click.UsageError(
            "--target-bpw chooses among int4 and 8 bits, and the size of blocks: give it without "
            "other --weights, --block, --head-bits, --keep-8bit and --symmetric"
        )
    with shown_progress(is_quiet=False) as progress:
        target = Target(bits_per_weight=target_bpw)
        check_place(place, target.budget(n_params(open_source(source))))
        found = mixed(
            source,
            target,
            options.calibration,
            progress,
            tokenizer=options.tokenizer,
            n_ctx=options.n_ctx,
        )
    print_note(f"spillover: {found.summary()}")
    return msgspec.structs.replace(
        options,
        weights="int4",
        block=found.block,
        head_bits=found.head_bits,
        eight_bits=found.kept,
    )


def _calibration_text(chosen: str | None) -> str:
    if chosen == "auto":
        return calibration_text()
    return "" if chosen is None else read_text(Path(chosen))


@contextmanager
def _progress_bar() -> Generator[Progress]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda n_done, n_all: None
        return
    bar: ProgressBar[int]
    with click.progressbar(length=1, label="exporting", file=sys.stderr) as bar:

        def show(n_done: int, n_all: int) -> None:
            bar.length = n_all
            bar.update(n_done - bar.pos)

        yield show


def _line(exported: Exported) -> str:
    return (
        f"{exported.folder}: {exported.n_params / 1e6:.1f} million parameters, "
        f"{exported.size_bytes / 1e6:.1f} MB, context {exported.n_ctx}"
    )
