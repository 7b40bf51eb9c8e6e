"""Finds places for names beside points, so that none covers another one or a point."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from msgspec import Struct

_CHARACTER, _LINE = 7.8, 14
"""About the size of a label's characters, and its height."""
_MOST_LINES = 4
"""Farther from its point a label would say nothing."""


class Box(Struct, frozen=True, kw_only=True):
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> Box:
        return cls(left=x - radius, top=y - radius, right=x + radius, bottom=y + radius)

    def touches(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


class Label(Struct, frozen=True, kw_only=True):
    """A text with its place."""

    text: str
    x: float
    """Of its beginning."""
    y: float
    """Of its base line."""
    end_x: float
    """Of the end that is nearer to its point."""
    is_apart: bool
    """Whether a line should lead from the point to it."""

    @property
    def box(self) -> Box:
        """What it covers."""
        right = self.x + len(self.text) * _CHARACTER
        return Box(left=self.x, top=self.y - _LINE + 3, right=right, bottom=self.y + 3)


def place_labels(
    names: Sequence[str], musts: Sequence[bool], marks: Sequence[Box], area: Box
) -> list[Label | None]:
    """A label for each name beside its mark, inside of *area*. Earlier ones have the first choice.

    None where there is no place. Only names that have to be shown (*musts*) may be a little away.
    """
    taken = list(marks)
    placed: list[Label | None] = []
    for name, is_must, mark in zip(names, musts, marks, strict=True):
        near = [one for one in _places(name, mark) if is_must or not one.is_apart]
        tried = [one for one in near if area.holds(one.box)]
        free = [one for one in tried if not any(one.box.touches(box) for box in taken)]
        label = next(iter(free), None)
        if label is None and is_must and tried:
            label = min(tried, key=lambda one: sum(one.box.touches(box) for box in taken))
        placed.append(label)
        if label is not None:
            taken.append(label.box)
    return placed


def _places(name: str, mark: Box) -> Generator[Label]:
    """Right and left of the mark, then above and below, nearest first."""
    width, middle = len(name) * _CHARACTER, (mark.top + mark.bottom) / 2 + 4
    for n_lines in range(_MOST_LINES + 1):
        for sign in (1, -1) if n_lines else (1,):
            for is_right in (True, False):
                x = mark.right + 4 if is_right else mark.left - 4 - width
                yield Label(
                    text=name,
                    x=x,
                    y=middle - sign * n_lines * _LINE,
                    end_x=x - 1 if is_right else x + width + 1,
                    is_apart=n_lines > 1,
                )
