"""Lets a writer that is to be replaced end its sentence first, within bounds."""

from __future__ import annotations

from spillover.cloud_fallback.seam.sentences import sentence_end


class SentenceFinish:
    """Passes text up to the next end of a sentence, list item or line.

    The bounds are *max_tokens* from now on and the time *until*; past them the text simply ends
    where it is.
    """

    def __init__(self, said: str, *, until: float, max_tokens: int) -> None:
        # Code blocks may begin far back, so all of the text is read once.
        self._text = said
        self._start = len(said)
        self._until = until
        self._tokens_left = max_tokens
        self.is_done = False

    def feed(self, text: str, n_tokens: int, now: float) -> str:
        """What of *text*, made of *n_tokens* and come at *now*, still belongs to the answer."""
        if self.is_done:
            return ""
        n_passed = len(self._text)
        self._text += text
        end = sentence_end(self._text, self._start)
        if end is not None:
            self.is_done = True
            return self._text[n_passed:end]
        self._tokens_left -= n_tokens
        self.is_done = self._tokens_left <= 0 or now >= self._until
        return text
