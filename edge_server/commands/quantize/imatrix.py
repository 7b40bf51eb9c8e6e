"""spillover quantize imatrix: find out which weights of a model matter."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.edge_server.commands.output import print_result

_EPILOG = """\b
Examples:
  spillover quantize imatrix model-F16.gguf imatrix.gguf
  spillover quantize imatrix model-F16.gguf imatrix.gguf --text my-chats.txt
"""


@click.command("imatrix", epilog=_EPILOG)
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text to read, of the kind that the model will see.  [default: one that comes with "
    "Spillover]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 512),
    help="Threads to compute with.  [default: the physical cores]",
)
def imatrix(source: Path, target: Path, text: Path | None, threads: int | None) -> None:
    """Compute the importance matrix of the GGUF file SOURCE, into the new file TARGET.

    It says how strongly each input of each matrix is used. Types of four bits and fewer round what
    matters more carefully with it.
    """
    from spillover.quantize.gguf.run import make_imatrix  # slow
    from spillover.runtime.machine.device import default_threads

    with shown_progress(False) as progress:
        made = make_imatrix(source, target, text, progress, n_threads=threads or default_threads())
    print_result(f"{target}: {made.n_matrices} matrices, {made.n_tokens} tokens")
