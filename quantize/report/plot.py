"""A plot of losses against prices as SVG: points worth their price joined, others grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from msgspec import Struct

from spillover.quantize.report.labels import Box, place_labels

STYLE = """
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); paint-order: stroke;
stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
svg text.dominated { fill: var(--grey); } .grid { stroke: var(--faint); }
.front { fill: none; stroke: var(--worth); stroke-width: 1.5; opacity: .5; }
.worth { fill: var(--worth); stroke: var(--worth); } .leader { stroke: var(--grey); }
svg .dominated:not(text) { fill: var(--grey); stroke: var(--grey); }
.pick { fill: none; stroke: var(--pick); stroke-width: 2.5; }
"""
"""Of plots, in the colours that LIGHT and DARK give."""
LIGHT = (
    "--ink: #1b1f24; --paper: #fff; --faint: #e3e6ea; --grey: #8b939c; --worth: #0b6bcb; "
    "--pick: #d1570b"
)
DARK = (
    "--ink: #e6e8eb; --paper: #16191d; --faint: #30363d; --grey: #7d8691; --worth: #58a6ff; "
    "--pick: #f0883e"
)

_WIDTH, _HEIGHT = 600, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 24, 30, 54
_SIGNS, _OTHER = {"llama.cpp": "●"}, "■"
"""The shapes of groups, in words."""
_ROOM = 0.06
"""Beside the outermost points, as a share of an axis."""
_MARK = 5
"""Half the width of a point."""


class Point(Struct, frozen=True, kw_only=True):
    """A model in a plot."""

    name: str
    price: float
    loss: float
    """Above 0."""
    error: float
    """One standard error of the loss."""
    is_worth_it: bool
    is_pick: bool
    group: str
    """What ran it; each group has a shape of its own."""


class _Axis(Struct, frozen=True, kw_only=True):
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> _Axis:
        room = (max(values) - min(values)) * _ROOM or abs(max(values)) * 0.1 or 1.0
        return cls(low=min(values) - room, high=max(values) + room)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def plot(points: Sequence[Point], label: str) -> str:
    """An <svg> element of its own: nothing is loaded. Its colours are for STYLE."""
    drawing = _Drawing(points)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        *drawing.frame(label),
        *drawing.front(),
        *(drawing.mark(point) for point in points),
        *drawing.labels(),
        "</svg>",
    ]
    return "\n".join(parts)


def picture(points: Sequence[Point], label: str) -> str:
    """The plot as the content of a file of its own, on white."""
    head, _, rest = plot(points, label).partition("\n")
    ground = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="var(--paper)"/>'
    return f"{head}\n<style>svg {{ {LIGHT} }}{STYLE}</style>\n{ground}\n{rest}\n"


class _Drawing:
    """The parts of one plot. Losses have a logarithmic axis."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points
        self._prices = _Axis.over([point.price for point in points])
        self._losses = _Axis.over([math.log10(point.loss) for point in points])

    def _x(self, price: float) -> float:
        return _LEFT + self._prices.share(price) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, loss: float) -> float:
        """Losses beyond the axis are drawn at its end."""
        share = min(max(self._losses.share(math.log10(max(loss, 1e-30))), 0.0), 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, label: str) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        lines = []
        for loss in _powers(self._losses):
            y = self._y(loss)
            lines.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            lines.append(_text(_LEFT - 8, y + 4, f"{loss:.7f}".rstrip("0").rstrip("."), "end"))
        for price in _round_numbers(self._prices):
            x = self._x(price)
            lines.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            )
            lines.append(_text(x, bottom + 18, f"{price:g}", "middle"))
        lines.append(_text((_LEFT + right) / 2, _HEIGHT - 12, label, "middle"))
        groups = {point.group for point in self._points}
        if len(groups) > 1:
            key = " ".join(f"{_SIGNS.get(name, _OTHER)} {name}" for name in sorted(groups)[::-1])
            lines.append(_text(right, 18, key, "end"))
        middle = (_TOP + bottom) / 2
        lines.append(
            f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            "mean KL divergence, nats</text>"
        )
        return lines

    def front(self) -> list[str]:
        worth = sorted((point.price, point.loss) for point in self._points if point.is_worth_it)
        places = " ".join(f"{self._x(price):.1f},{self._y(loss):.1f}" for price, loss in worth)
        return [f'<polyline class="front" points="{places}"/>']

    def mark(self, point: Point) -> str:
        x, y = self._x(point.price), self._y(point.loss)
        kind = "worth" if point.is_worth_it else "dominated"
        ring = f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if point.is_pick else ""
        low, high = self._y(point.loss - point.error), self._y(point.loss + point.error)
        bar = f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        title = (
            f"<title>{escape(point.name)}: {point.loss:.5f} ± {point.error:.5f} nats, "
            f"{point.price:g}</title>"
        )
        if point.group in _SIGNS:
            shape = f'circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_MARK}"'
            return f"{ring}{bar}<{shape}>{title}</circle>"
        place = f'x="{x - _MARK:.1f}" y="{y - _MARK:.1f}"'
        shape = f'rect class="{kind}" {place} width="{2 * _MARK}" height="{2 * _MARK}"'
        return f"{ring}{bar}<{shape}>{title}</rect>"

    def labels(self) -> list[str]:
        """Names beside their points, the pick's and those of points worth their price first. Where
        many points are close, those that are not worth it have their names only in their titles."""
        first = sorted(
            self._points, key=lambda one: (not one.is_pick, not one.is_worth_it, one.price)
        )
        area = Box(left=_LEFT + 2, top=_TOP - 8, right=_WIDTH - 2, bottom=_HEIGHT - _BOTTOM - 2)
        marks = [
            Box.around(self._x(one.price), self._y(one.loss), 13 if one.is_pick else _MARK + 1)
            for one in first
        ]
        names = [f"{one.name} (pick)" if one.is_pick else one.name for one in first]
        musts = [one.is_worth_it or one.is_pick for one in first]
        parts = []
        for one, label in zip(first, place_labels(names, musts, marks, area), strict=True):
            if label is None:
                continue
            if label.is_apart:
                x, y = self._x(one.price), self._y(one.loss)
                parts.append(
                    f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{label.end_x:.1f}" '
                    f'y2="{label.y - 4:.1f}"/>'
                )
            kind = "" if one.is_worth_it else "dominated"
            parts.append(_text(label.x, label.y, label.text, "start", kind))
        return parts


def _powers(axis: _Axis) -> list[float]:
    """Powers of ten on a logarithmic axis; twice and five times each too where they are few."""
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    factors = (1,) if axis.high - axis.low > 2.5 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [loss for loss in found if axis.low <= math.log10(loss) <= axis.high]


def _round_numbers(axis: _Axis) -> list[float]:
    """Four to nine of them."""
    rough = (axis.high - axis.low) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(axis.low / step)
    n = math.floor(axis.high / step) - first + 1
    return [round((first + i) * step, 10) for i in range(n)]


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text{shown} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
