"""spillover quantize report: show evaluations as a page with plots."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.edge_server.commands.output import print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange
from spillover.edge_server.commands.quantize.result_file import check_result_file

_EPILOG = """\b
Examples:
  spillover quantize report losses.json --html losses.html
  spillover quantize report gguf.json onnx.json --html both.html --max-divergence 0.02

The pick is the fastest model that is exact enough. See docs/quantize.md.
"""


@click.command("report", epilog=_EPILOG)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with plots of the losses against size and speed; it loads nothing.",
)
@click.option(
    "--svg",
    "svg_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Write each plot into this folder, as a file of its own.",
)
@click.option(
    "--max-divergence",
    type=FiniteRange(0, 100, min_open=True),
    help="Most nats that the pick may lose on average.  [default: 0.05]",
)
def report(
    files: tuple[Path, ...],
    html_file: Path | None,
    svg_folder: Path | None,
    max_divergence: float | None,
) -> None:
    """Show the evaluations in FILES, which `spillover quantize eval --json` wrote.

    Several files must have one reference and one text.
    """
    from spillover.quantize.evaluation.table import markdown  # slow
    from spillover.quantize.report.choice import MOST_DIVERGENCE, pick
    from spillover.quantize.report.page import page, pictures
    from spillover.quantize.report.stored import read_evaluations

    check_result_file(html_file, "--html", files)
    evaluation = read_evaluations(files)
    for note in evaluation.notes:
        print_note(f"spillover: {note}")
    chosen = pick(evaluation.candidates, max_divergence or MOST_DIVERGENCE)
    if html_file is not None:
        html_file.write_text(page(evaluation, chosen), "utf-8")
        print_note(f"spillover: {html_file} shows the plots")
    if svg_folder is not None:
        for name, content in pictures(evaluation, chosen).items():
            (svg_folder / f"{name}.svg").write_text(content, "utf-8")
            print_note(f"spillover: {svg_folder / f'{name}.svg'} is the loss against {name}")
    print_result(f"{markdown(evaluation)}\n\nPick: {chosen.name}, {chosen.reason}.")
