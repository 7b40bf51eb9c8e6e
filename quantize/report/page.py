"""An evaluation as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from msgspec import Struct

from spillover.quantize.evaluation.evaluate import Candidate, Evaluation
from spillover.quantize.evaluation.table import about, cells, heads
from spillover.quantize.report.choice import Pick, tokens_per_s, undominated
from spillover.quantize.report.plot import DARK, LIGHT, STYLE, Point, picture, plot

_STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
gap: 1rem; }}
figure {{ margin: 0; max-width: 680px; }} figcaption {{ font-weight: 600; }}
svg {{ width: 100%; height: auto; }}
.table {{ overflow-x: auto; }} table {{ border-collapse: collapse; white-space: nowrap;
font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--faint); }}
th:first-child, td:first-child {{ text-align: left; }} tr.pick td {{ font-weight: 600; }}
tr.dominated td {{ color: var(--grey); }}
{STYLE}"""
_NO_LESS = 1e-7
"""Nats: a model that loses nothing has a place in the plot, too."""


class _Price(Struct, frozen=True, kw_only=True):
    """What a plot sets the losses against."""

    name: str
    label: str
    of: Callable[[Candidate], float]
    sign: int
    """-1: more is better."""


_PRICES = (
    _Price(name="size", label="MB on disk", of=lambda one: one.model.size_bytes / 1e6, sign=1),
    _Price(name="speed", label="tokens per second, one stream", of=tokens_per_s, sign=-1),
)


def page(evaluation: Evaluation, chosen: Pick) -> str:
    """The whole document."""
    figures = [
        f"<figure><figcaption>Loss against {price.name}</figcaption>"
        f"{plot(_points(evaluation.candidates, chosen, price), price.label)}</figure>"
        for price in _prices(evaluation)
    ]
    name = escape(evaluation.reference.name)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What {name} loses</title><style>{_STYLE}</style>
<h1>What {name} loses</h1>
<p><strong>Pick: {escape(chosen.name)}</strong>, {escape(chosen.reason)}.</p>
<div class="plots">{"".join(figures)}</div>
<p>Circles run in llama.cpp, squares in ONNX Runtime. Bars are one standard error to both sides.
Grey: another model is as good and better in one of both; in the table: in every plot.</p>
<div class="table">{_table(evaluation, chosen)}</div>
<p>{escape(about(evaluation))}</p>
</html>
"""


def pictures(evaluation: Evaluation, chosen: Pick) -> dict[str, str]:
    """The plots as SVG files, by what the losses are set against: size, and speed where it was
    measured."""
    return {
        price.name: picture(_points(evaluation.candidates, chosen, price), price.label)
        for price in _prices(evaluation)
    }


def _prices(evaluation: Evaluation) -> tuple[_Price, ...]:
    has_speed = all(one.model.cost is not None for one in evaluation.candidates)
    return _PRICES if has_speed else _PRICES[:1]


def _points(candidates: Sequence[Candidate], chosen: Pick, price: _Price) -> list[Point]:
    return [
        Point(
            name=one.model.name,
            price=_rounded(price.of(one)),
            loss=max(one.loss.divergence, _NO_LESS),
            error=one.loss.divergence_error,
            is_worth_it=is_worth_it,
            is_pick=one == chosen.candidate,
            group=one.model.engine,
        )
        for one, is_worth_it in zip(candidates, _worth(candidates, price), strict=True)
    ]


def _worth(candidates: Sequence[Candidate], price: _Price) -> list[bool]:
    losses = [max(one.loss.divergence, _NO_LESS) for one in candidates]
    return undominated([price.sign * _rounded(price.of(one)) for one in candidates], losses)


def _rounded(price: float) -> float:
    """Files that differ in their metadata alone have one size."""
    return float(f"{price:.3g}")


def _table(evaluation: Evaluation, chosen: Pick) -> str:
    each = [_worth(evaluation.candidates, price) for price in _prices(evaluation)]
    kinds = ["" if any(worth) else "dominated" for worth in zip(*each, strict=True)]
    for place, one in enumerate(evaluation.candidates):
        if one == chosen.candidate:
            kinds[place] = "pick"
    rows = [
        f'<tr class="{kind}">{_row("td", row)}</tr>'
        for kind, row in zip(["", *kinds], cells(evaluation), strict=True)
    ]
    return f"<table><tr>{_row('th', heads())}</tr>{''.join(rows)}</table>"


def _row(tag: str, texts: list[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
