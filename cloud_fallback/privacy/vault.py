"""Which placeholder stands for which text: it never leaves the device, and never shows itself."""

from __future__ import annotations

import json
from collections.abc import Iterable

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.privacy.placeholders import MAX_NUMBER, Shapes, placeholder, read


class Vault:
    """Gives the same text the same placeholder, and never one that *texts* seem to hold."""

    def __init__(self, shapes: Shapes, texts: Iterable[str]) -> None:
        self._taken = {
            read(match)
            for text in texts
            if shapes.may_begin.search(text)
            for match in shapes.whole.finditer(text)
        }
        self._last: dict[str, int] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._values: dict[tuple[str, int], str] = {}
        self._is_json: set[tuple[str, int]] = set()

    def placeholder(self, kind: str, value: str, *, is_json: bool = False) -> str:
        """What stands for *value* in the request. *is_json*: it is written with JSON's escapes."""
        place = self._places.get(value)
        if place is None:
            place = self._places[value] = self._next(kind.upper())
            self._values[place] = value
            if is_json:
                self._is_json.add(place)
        return placeholder(*place)

    def _next(self, label: str) -> tuple[str, int]:
        number = self._last.get(label, 0) + 1
        while (label, number) in self._taken:
            number += 1
        if number > MAX_NUMBER:
            raise RedactionFailed("the request holds too much that would have to be taken out")
        self._last[label] = number
        return label, number

    def value(self, place: tuple[str, int]) -> str | None:
        """The text that a placeholder stands for; None: it is none of these."""
        return self._values.get(place)

    def json_value(self, place: tuple[str, int]) -> str | None:
        """The same, as it is written within a JSON string."""
        value = self._values.get(place)
        if value is None or place in self._is_json:
            return value
        return json.dumps(value, ensure_ascii=False)[1:-1]

    @property
    def values(self) -> list[str]:
        """All texts that have a placeholder."""
        return list(self._places)

    def counts(self) -> dict[str, int]:
        """How many texts of each kind."""
        counts: dict[str, int] = {}
        for label, _ in self._values:
            counts[label.lower()] = counts.get(label.lower(), 0) + 1
        return counts

    def __repr__(self) -> str:
        return f"Vault({self.counts()})"
