"""Turns token bytes into text that never ends inside a character."""

from __future__ import annotations

import codecs

from spillover.runtime.text.graphemes import ZWJ, n_unfinished


class Detokenizer:
    """Bytes in, text out; all of it together is bytes.decode("utf-8", "replace"), less a character
    that is cut at the end: its U+FFFD would be no part of what the model wrote, and a response
    format would refuse it when the answer is continued.

    A trailing zero-width joiner and the first half of a flag wait for the next character, so that
    an emoji of several tokens arrives whole.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, piece: bytes) -> str:
        text = self._held + self._decoder.decode(piece)
        if text.isascii():
            self._held = ""
            return text
        n = _n_held(text)
        self._held = text[len(text) - n :]
        return text[: len(text) - n]

    def flush(self) -> str:
        """What is still held, at the end of the answer."""
        text, self._held = self._held, ""
        self._decoder.reset()
        return text


def _n_held(text: str) -> int:
    """How many last characters must wait: at most two."""
    return min(2, len(text)) if text.endswith(ZWJ) else n_unfinished(text)
