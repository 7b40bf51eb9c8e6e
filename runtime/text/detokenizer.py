"""Token bytes to text that never ends inside a character."""

from __future__ import annotations

import codecs

_ZWJ = "\u200d"
_REGIONAL_FIRST, _REGIONAL_LAST = "\U0001f1e6", "\U0001f1ff"


def _is_regional(character: str) -> bool:
    return _REGIONAL_FIRST <= character <= _REGIONAL_LAST


class Detokenizer:
    """Feeds of bytes in, text out; together the text is bytes.decode("utf-8", "replace").

    A trailing zero-width joiner and the first half of a flag wait for what they belong to, so
    that an emoji whose bytes come in one run of tokens arrives whole.
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
        """What is still held back, at the end of the answer."""
        text = self._held + self._decoder.decode(b"", True)
        self._held = ""
        return text


def _n_held(text: str) -> int:
    """How many last characters must wait: at most two."""
    if text.endswith(_ZWJ):
        return min(2, len(text))
    n_regional = 0
    while n_regional < len(text) and _is_regional(text[-1 - n_regional]):
        n_regional += 1
    return n_regional % 2
