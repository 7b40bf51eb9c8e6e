"""Ends an answer at a stop string, however tokens cut it."""

from __future__ import annotations

from spillover.runtime.text.partial_match import PartialMatch


class StopMatcher:
    """Releases text until one of *stops* is complete: the one that ends first, or the longest of
    those that end together.

    Only an end of the text that may begin a stop string is held back.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._partial = PartialMatch(stops)
        self._held = ""
        self.stopped: str | None = None

    def feed(self, text: str) -> str:
        """The text that certainly comes before any stop string."""
        if not self._stops:
            return text
        if self.stopped is not None:
            return ""
        text = self._held + text
        if self._first_characters.isdisjoint(text):
            self._held = ""
            return text
        found = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if found:
            end, start = min(found)
            self.stopped = text[start:end]
            self._held = ""
            return text[:start]
        n = self._partial.n_at_end(text)
        self._held = text[len(text) - n :]
        return text[: len(text) - n]

    def flush(self) -> str:
        """The held text, which was no stop string after all."""
        text, self._held = self._held, ""
        return text
