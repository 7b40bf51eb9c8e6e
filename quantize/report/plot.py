"""A plot of losses against prices as SVG: points worth their price joined, others grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from msgspec import Struct

_WIDTH, _HEIGHT = 600, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 24, 20, 54
_CHARACTER, _LINE = 7.2, 14
"""About the size of a label's characters, and the distance of two labels that must not touch."""
_MOST_LINES = 3
"""Farther from its point a label would say nothing."""


class Point(Struct, frozen=True, kw_only=True):
    """A model in a plot."""

    name: str
    price: float
    loss: float
    """Above 0."""
    is_worth_it: bool
    is_pick: bool
    group: str
    """What ran it; each group has a shape of its own."""


class Axis(Struct, frozen=True, kw_only=True):
    """What a plot's prices are."""

    label: str
    low: float
    high: float

    def place(self, price: float) -> float:
        """Pixels from the left."""
        span = self.high - self.low
        return _LEFT + (price - self.low) / span * (_WIDTH - _LEFT - _RIGHT)


def plot(points: Sequence[Point], label: str) -> str:
    """An <svg> element of its own: nothing is loaded."""
    prices = [point.price for point in points]
    room = (max(prices) - min(prices)) * 0.08 or max(prices) * 0.1 or 1.0
    axis = Axis(label=label, low=max(min(prices) - room, 0), high=max(prices) + room)
    lowest = math.floor(math.log10(min(point.loss for point in points)))
    highest = math.ceil(math.log10(max(point.loss for point in points)))
    scale = _Scale(low=lowest, high=max(highest, lowest + 1))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        *_frame(axis, scale),
        *_front(points, axis, scale),
        *(_mark(point, axis, scale) for point in points),
        *_labels(points, axis, scale),
        "</svg>",
    ]
    return "\n".join(parts)


class _Scale(Struct, frozen=True, kw_only=True):
    """Powers of ten of the losses."""

    low: int
    high: int

    def place(self, loss: float) -> float:
        """Pixels from the top."""
        share = (math.log10(loss) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _frame(axis: Axis, scale: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for power in range(scale.low, scale.high + 1):
        y = scale.place(10.0**power)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(_LEFT - 8, y + 4, f"{10.0**power:g}", "end"))
    for price in _ticks(axis):
        x = axis.place(price)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        lines.append(_text(x, bottom + 18, f"{price:g}", "middle"))
    lines.append(_text((_LEFT + right) / 2, _HEIGHT - 12, axis.label, "middle"))
    middle = (_TOP + bottom) / 2
    lines.append(
        f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        "mean KL divergence, nats</text>"
    )
    return lines


def _ticks(axis: Axis) -> list[float]:
    """Round prices, four to nine of them."""
    rough = (axis.high - axis.low) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(axis.low / step)
    n = math.floor(axis.high / step) - first + 1
    return [round((first + i) * step, 10) for i in range(n)]


def _front(points: Sequence[Point], axis: Axis, scale: _Scale) -> list[str]:
    worth = sorted((point.price, point.loss) for point in points if point.is_worth_it)
    places = " ".join(f"{axis.place(price):.1f},{scale.place(loss):.1f}" for price, loss in worth)
    return [f'<polyline class="front" points="{places}"/>']


def _mark(point: Point, axis: Axis, scale: _Scale) -> str:
    x, y = axis.place(point.price), scale.place(point.loss)
    kind = "worth" if point.is_worth_it else "dominated"
    ring = f'<circle class="pick" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if point.is_pick else ""
    title = f"<title>{escape(point.name)}: {point.loss:.5f} nats, {point.price:g}</title>"
    if point.group == "llama.cpp":
        return f'{ring}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'
    return (
        f'{ring}<rect class="{kind}" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10">'
        f"{title}</rect>"
    )


def _labels(points: Sequence[Point], axis: Axis, scale: _Scale) -> list[str]:
    """Names beside their points, moved down or up until none touches another. Where many points
    are close, those that are not worth it have their names only in their titles."""
    taken: list[tuple[float, float, float]] = []
    texts = []
    for point in sorted(points, key=lambda one: (not one.is_pick, not one.is_worth_it, one.price)):
        name = f"{point.name} (pick)" if point.is_pick else point.name
        gap, width = (16 if point.is_pick else 10), len(name) * _CHARACTER
        x, y = axis.place(point.price) + gap, scale.place(point.loss) + 4
        if x + width > _WIDTH - 4:
            x -= width + 2 * gap
        most = _MOST_LINES if point.is_worth_it else 1
        steps = (0, *(sign * n * _LINE for n in range(1, most + 1) for sign in (1, -1)))
        free = [
            y + step
            for step in steps
            if _TOP < y + step < _HEIGHT - _BOTTOM
            and not any(
                abs(other - y - step) < _LINE and left < x + width and x < right
                for left, right, other in taken
            )
        ]
        if not free and not point.is_pick:
            continue
        place = free[0] if free else y
        taken.append((x, x + width, place))
        kind = "" if point.is_worth_it else "dominated"
        texts.append(_text(x, place, name, "start", kind))
    return texts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text{shown} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
