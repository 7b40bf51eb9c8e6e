"""Stretches of text that must not leave the device."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class Span(Struct, frozen=True):
    """text[start:end] is of *kind*: one of settings.Kind or a user pattern's name."""

    start: int
    end: int
    kind: str


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap as one: all that any of them covers is covered.

    The kind is that of the first given of those that overlap.
    """
    found: list[tuple[int, Span]] = []
    for rank, span in sorted(enumerate(spans), key=lambda ranked: ranked[1].start):
        if not found or span.start >= found[-1][1].end:
            found.append((rank, span))
            continue
        best, last = found[-1]
        kind = last.kind if best < rank else span.kind
        found[-1] = (min(best, rank), Span(last.start, max(last.end, span.end), kind))
    return [span for _, span in found]
