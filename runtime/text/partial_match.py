"""Whether a text ends with the beginning of a string that may follow."""

from __future__ import annotations

from collections.abc import Iterable


class PartialMatch:
    """Looks for *strings*; the cost does not depend on the length of the text."""

    __slots__ = ("_by_first", "_firsts", "_longest")

    def __init__(self, strings: Iterable[str]) -> None:
        self._by_first: dict[str, list[str]] = {}
        self._longest = 0
        for string in strings:
            self._by_first.setdefault(string[0], []).append(string)
            self._longest = max(self._longest, len(string))
        self._firsts = frozenset(self._by_first)

    def n_at_end(self, text: str) -> int:
        """The most last characters of *text* that begin a string, or are one."""
        end = text[-self._longest :] if self._longest else ""
        if self._firsts.isdisjoint(end):
            return 0
        for start, first in enumerate(end):
            rest = end[start:]
            if any(string.startswith(rest) for string in self._by_first.get(first, ())):
                return len(rest)
        return 0
