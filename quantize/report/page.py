"""An evaluation as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from spillover.quantize.evaluation.evaluate import Candidate, Evaluation
from spillover.quantize.evaluation.table import about, cells, heads
from spillover.quantize.report.choice import Pick, tokens_per_s, undominated
from spillover.quantize.report.plot import Point, plot

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8eb); --paper: light-dark(#fff,
#16191d); --faint: light-dark(#e3e6ea, #30363d); --grey: light-dark(#9aa1a9, #6e7781); --worth:
light-dark(#0b6bcb, #58a6ff); --pick: light-dark(#d1570b, #f0883e); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem; }
figure { margin: 0; max-width: 680px; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg text.dominated { fill: var(--grey); } .grid { stroke: var(--faint); }
.front { fill: none; stroke: var(--worth); stroke-width: 1.5; opacity: .5; }
.worth { fill: var(--worth); } svg .dominated:not(text) { fill: var(--grey); }
.pick { fill: none; stroke: var(--pick); stroke-width: 2.5; }
.table { overflow-x: auto; } table { border-collapse: collapse; white-space: nowrap; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; } tr.pick td { font-weight: 600; }
tr.dominated td { color: var(--grey); }
"""
_NO_LESS = 1e-7
"""Nats: a model that loses nothing has a place in the plot, too."""


def page(evaluation: Evaluation, chosen: Pick) -> str:
    """The whole document."""
    candidates = evaluation.candidates
    figures = [_figure(candidates, chosen, "Size", "MB on disk", _megabytes, sign=1)]
    if all(one.model.cost is not None for one in candidates):
        label = "tokens per second, one stream"
        figures.append(_figure(candidates, chosen, "Speed", label, tokens_per_s, sign=-1))
    name = escape(evaluation.reference.name)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What {name} loses</title><style>{_STYLE}</style>
<h1>What {name} loses</h1>
<p><strong>Pick: {escape(chosen.name)}</strong>, {escape(chosen.reason)}.</p>
<div class="plots">{"".join(figures)}</div>
<p>Circles run in llama.cpp, squares in ONNX Runtime. Grey: another model is as good and better in
one of both.</p>
<div class="table">{_table(evaluation, chosen)}</div>
<p>{escape(about(evaluation))}</p>
</html>
"""


def _megabytes(candidate: Candidate) -> float:
    return candidate.model.size_bytes / 1e6


def _figure(
    candidates: tuple[Candidate, ...],
    chosen: Pick,
    title: str,
    label: str,
    price: Callable[[Candidate], float],
    *,
    sign: int,
) -> str:
    """*sign* -1: more is better."""
    losses = [max(one.loss.divergence, _NO_LESS) for one in candidates]
    # Files that differ in their metadata alone have one size.
    prices = [float(f"{price(one):.3g}") for one in candidates]
    worth = undominated([sign * each for each in prices], losses)
    points = [
        Point(
            name=one.model.name,
            price=each,
            loss=loss,
            is_worth_it=is_worth_it,
            is_pick=one.model.name == chosen.name,
            group=one.model.engine,
        )
        for one, each, loss, is_worth_it in zip(candidates, prices, losses, worth, strict=True)
    ]
    caption = f"<figcaption>Loss against {title.lower()}</figcaption>"
    return f"<figure>{caption}{plot(points, label)}</figure>"


def _table(evaluation: Evaluation, chosen: Pick) -> str:
    sizes = [float(f"{_megabytes(one):.3g}") for one in evaluation.candidates]
    worth = undominated(sizes, [one.loss.divergence for one in evaluation.candidates])
    kinds = ["", *("" if is_worth_it else "dominated" for is_worth_it in worth)]
    rows = []
    for kind, row in zip(kinds, cells(evaluation), strict=True):
        shown = "pick" if row[0] == chosen.name else kind
        rows.append(f'<tr class="{shown}">{_row("td", row)}</tr>')
    return f"<table><tr>{_row('th', heads())}</tr>{''.join(rows)}</table>"


def _row(tag: str, texts: list[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
