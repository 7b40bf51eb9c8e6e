"""Whether a text ends with the beginning of a string that may follow."""

from __future__ import annotations

from collections.abc import Iterable


class PartialMatch:
    """Looks for *strings*; the cost does not depend on the length of the text."""

    __slots__ = ("_by_first", "_longest")

    def __init__(self, strings: Iterable[str]) -> None:
        self._by_first: dict[str, list[str]] = {}
        self._longest = 0
        for string in strings:
            self._by_first.setdefault(string[0], []).append(string)
            self._longest = max(self._longest, len(string))

    def n_at_end(self, text: str) -> int:
        """The most last characters of *text* that begin a string without completing it."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            strings = self._by_first.get(text[-n])
            if strings and any(s.startswith(text[-n:]) and len(s) > n for s in strings):
                return n
        return 0
