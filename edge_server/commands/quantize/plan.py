"""spillover quantize plan: say which files of a model would fit this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange, size
from spillover.quantize.texts import read_text

if TYPE_CHECKING:
    from spillover.quantize.plan.gguf_mixed import GgufMixed
    from spillover.quantize.plan.mixed import Mixed
    from spillover.quantize.plan.plan import Option, Plan
    from spillover.quantize.plan.target import Target

_EPILOG = """\b
Examples:
  spillover quantize plan model-F16.gguf --memory 4GiB --n-ctx 8192 --speed-floor 8
  spillover quantize plan model-F16.gguf --target-bpw 5 --text mine.txt

Nothing is written. Speeds are upper limits: what memory allows. See docs/quantize.md.
"""
_N_CTX = 4_096


@click.command("plan", epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--memory", callback=size, help="What it may take.  [default: what is free now]")
@click.option(
    "--n-ctx",
    type=click.IntRange(16, 1_048_576),
    help=f"Tokens of one conversation, at most the model's.  [default: {_N_CTX}]",
)
@click.option(
    "--speed-floor",
    type=FiniteRange(0, 1e6),
    help="Fewest tokens per second of one stream.  [default: any]",
)
@click.option(
    "--target-bpw",
    type=FiniteRange(3, 16),
    help="Measure which matrices suffer most from few bits, and say which ones should get how many "
    "when the weights have so many bits on average.",
)
@click.option("--target-size", callback=size, help="The same, with the size of the weights.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["gguf", "onnx"]),
    help="What the recipe for such a target makes.  [default: gguf of a GGUF file, onnx of a "
    "folder]",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What the model reads for that.  [default: a text that ships with Spillover]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def plan(
    model: Path,
    memory: int | None,
    n_ctx: int | None,
    speed_floor: float | None,
    target_bpw: float | None,
    target_size: int | None,
    kind: str | None,
    text: Path | None,
    as_json: bool,
) -> None:
    """Say which files of MODEL would fit this device, how fast and how exact, and pick one.

    MODEL is a Hugging Face folder or a GGUF file, best one that is not quantized.
    """
    from spillover.quantize.plan import plan as planning  # slow
    from spillover.quantize.plan.device_speed import measure_speed
    from spillover.quantize.plan.target import Target
    from spillover.runtime.machine.device import available_memory

    if target_bpw is not None and target_size is not None:
        raise click.UsageError("--target-bpw and --target-size say the same: give one of them")
    if target_bpw is not None or target_size is not None:
        target = Target(bits_per_weight=target_bpw, size_bytes=target_size)
        chosen = kind or ("onnx" if model.is_dir() else "gguf")
        has_n_ctx = n_ctx is not None and chosen == "gguf"
        _refuse("of whole recipes", memory=memory, speed_floor=speed_floor)
        _refuse("of ONNX models", n_ctx=n_ctx if has_n_ctx else None)
        _print_mixed(model, target, chosen, text, n_ctx, as_json=as_json)
        return
    _refuse("for --target-bpw and --target-size", format=kind, text=text)
    wish = planning.Wish(
        memory_bytes=available_memory() if memory is None else memory,
        n_ctx=n_ctx or _N_CTX,
        speed_floor=speed_floor or 0.0,
    )
    with shown_progress(is_quiet=as_json) as progress:
        made = planning.plan(model, wish, measure_speed(), progress)
    if as_json:
        print_json(made)
    else:
        for note in made.notes:
            print_note(f"spillover: {note}")
        print_result(_table(made, wish.memory_bytes))


def _refuse(what: str, **options: object) -> None:
    """Raise UsageError for those that are given: they would have no effect."""
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is {what}: leave it out")


def _print_mixed(
    model: Path, target: Target, kind: str, text: Path | None, n_ctx: int | None, *, as_json: bool
) -> None:
    content = read_text(text) if text else ""
    with shown_progress(is_quiet=as_json) as progress:
        found: GgufMixed | Mixed
        if kind == "gguf":
            from spillover.quantize.plan.gguf_mixed import gguf_mixed  # slow; needs llama.cpp

            found = gguf_mixed(model, target, content, progress)
        else:
            from spillover.quantize.plan.mixed import mixed  # slow

            found = mixed(model, target, content, progress, n_ctx=n_ctx)
    commands = found.commands(model, text)
    if as_json:
        print_json({**asdict(found), "commands": commands})
    else:
        print_result("\n".join([found.summary(), *commands]))


def _table(made: Plan, memory_bytes: int) -> str:
    lines = [
        "| file | engine | MB | KV cache MB | peak MB | tok/s at most | expected KLD | |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(one, made.pick) for one in made.options),
    ]
    pick = f"{made.pick}: {made.reason}" if made.pick else made.reason
    lines += ["", f"Memory: {memory_bytes / 1e6:.0f} MB. Context: {made.n_ctx} tokens. {pick}."]
    lines += [one.command for one in made.options if one.name == made.pick]
    return "\n".join(lines)


def _row(one: Option, pick: str) -> str:
    note = "**pick**" if one.name == pick else ""
    if not one.fits:
        note = "too large"
    elif not one.is_fast_enough:
        note = "too slow"
    elif one.is_rounded_again:
        note = "rounds twice"
    sizes = (one.size_bytes, one.kv_bytes, one.peak_bytes)
    facts = [one.name, one.engine, *(f"{size / 1e6:.1f}" for size in sizes)]
    facts += [f"{one.tokens_per_s:.0f}", f"{one.expected_divergence:.5f}", note]
    return f"| {' | '.join(facts)} |"
