"""Joins an answer to the turn that it goes on with."""

from __future__ import annotations

from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest


class PrefilledText:
    """Takes off the start of an answer what the caller has already: the prefilled turn, where a
    provider repeats it (*echoes*), and the white space that was cut from the turn's end.

    Holds text back only while it may still be such a repetition.
    """

    def __init__(self, sent: HttpRequest | None, *, echoes: bool = False) -> None:
        self._echo = sent.prefilled if sent and echoes else ""
        self._space = sent.trimmed if sent else ""
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is new to the caller."""
        if not self._echo and not self._space:
            return text
        text, self._held = self._held + text, ""
        if self._echo:
            if len(text) < len(self._echo) and self._echo.startswith(text):
                self._held = text
                return ""
            if text.startswith(self._echo):
                text = text[len(self._echo) :]
            self._echo = ""
        return self._without_space(text)

    def _without_space(self, text: str) -> str:
        while text and self._space and text[0] == self._space[0]:
            text, self._space = text[1:], self._space[1:]
        if text:
            self._space = ""
        return text

    def flush(self) -> str:
        """What was held back when the answer ended: it was no repetition after all."""
        text, self._held, self._echo = self._held, "", ""
        return text
