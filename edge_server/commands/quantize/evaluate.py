"""spillover quantize eval: say what a smaller model loses, and what it costs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.output import print_result
from spillover.edge_server.commands.quantize.result_file import check_result_file
from spillover.quantize.texts import read_text

_EPILOG = """\b
Examples:
  spillover quantize eval model-F16.gguf model-Q4_K_M.gguf model-Q8_0.gguf
  spillover quantize eval model-F16.gguf ./model-int4 --text mine.txt --json losses.json

Chunks, positions and measures are those of llama-perplexity --kl-divergence. See docs/quantize.md.
"""


@click.command("eval", epilog=_EPILOG)
@click.argument("reference", type=click.Path(path_type=Path, exists=True))
@click.argument("candidates", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What the models read.  [default: a text that ships with Spillover]",
)
@click.option(
    "--n-ctx",
    type=click.IntRange(16, 32_768),
    default=512,
    show_default=True,
    help="Tokens of a chunk; the second half of each is scored.",
)
@click.option("--speed/--no-speed", default=True, help="Measure memory and tokens per second, too.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write everything that was found to this file, for `spillover quantize report`.",
)
def evaluate(
    reference: Path,
    candidates: tuple[Path, ...],
    text: Path | None,
    n_ctx: int,
    speed: bool,
    json_file: Path | None,
) -> None:
    """Compare CANDIDATES with REFERENCE: what they predict, how large and how fast they are.

    Each is a GGUF file or the folder of an ONNX model, all with one tokenizer. REFERENCE is the
    model before it was quantized, or the least quantized one there is.
    """
    texts = [text] if text else []
    check_result_file(json_file, "--json", [reference, *candidates, *texts])

    from spillover.quantize.evaluation import evaluate as evaluation  # slow
    from spillover.quantize.evaluation.shipped_text import shipped_text
    from spillover.quantize.evaluation.table import markdown

    with shown_progress(is_quiet=False) as progress:
        found = evaluation.evaluate(
            reference,
            candidates,
            shipped_text() if text is None else read_text(text),
            progress,
            text_name="the text that ships with Spillover" if text is None else text.name,
            n_ctx=n_ctx,
            measures_cost=speed,
        )
    print_result(markdown(found))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
