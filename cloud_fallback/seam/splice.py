"""The few characters around the join: blanks that both sides have, closing quotes, cut escapes."""

from __future__ import annotations

import json
import re

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.seam.folding import fold, n_leading_blank
from spillover.runtime.text.markdown import FENCE, last_line

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_CLOSING = {
    "<<<": ">>>",
    "[[[": "]]]",
    "**": "**",
    "<fragment>": "</fragment>",
    "«": "»",
    "“": "”",
    "⟦": "⟧",
    '"': '"',
    "'": "'",
    "`": "`",
    "„": "“",
    "\u2018": "\u2019",
}


def closing_quote(skipped: str, before: str) -> str:
    """What closes the quote that *skipped*, a preamble, ends with. Empty when it ends with none,
    or when the quote is the answer's own: *before* is what the answer has in that place."""
    skipped = skipped.rstrip()
    opening = next((mark for mark in _CLOSING if skipped.endswith(mark)), "")
    if not opening or FENCE.match(last_line(skipped)):
        return ""
    own = before.rstrip()[-len(opening) :]
    if before[-1:].isspace() and _CLOSING.get(own, own) == own:
        own = ""  # a mark for both ends that stands before a blank has closed something
    is_own = own == opening or (own in _CLOSING and fold(own) == fold(opening))
    return "" if is_own else _CLOSING[opening]


class Splice:
    """Drops from the beginning of the new text what the client has already: *pending*.

    Blanks are held until it is known how many there are; nothing is held otherwise. Raises
    SeamFailed where the text does not go on from half an escape of a JSON string.
    """

    def __init__(self, pending: str, *, closing: str = "", is_json: bool = False) -> None:
        n = n_leading_blank(pending)
        self._blanks, self._rest = pending[:n], pending[n:]
        self._closing = closing
        self._is_json = is_json
        self._held = ""
        self.is_done = not pending and not closing

    def feed(self, text: str) -> str:
        """What is new in *text*, as far as it is known."""
        if self.is_done:
            return text
        self._held += text
        return self._try(is_last=False)

    def flush(self) -> str:
        """What was held and is new after all."""
        return "" if self.is_done else self._try(is_last=True)

    def _try(self, *, is_last: bool) -> str:
        if self._closing and not self._drop_closing(is_last=is_last):
            return ""
        if self._blanks and not self._drop_blanks(is_last=is_last):
            return ""
        if self._rest and not self._drop_rest(is_last=is_last):
            return ""
        self.is_done = True
        text, self._held = self._held, ""
        return text

    def _drop_closing(self, *, is_last: bool) -> bool:
        """Whether it is known if the quote is closed; blanks may stand before the mark."""
        text = self._held[n_leading_blank(self._held) :]
        if text.startswith(self._closing):
            self._held = text[len(self._closing) :]
        elif self._closing.startswith(text) and not is_last:
            return False
        self._closing = ""
        return True

    def _drop_blanks(self, *, is_last: bool) -> bool:
        """Whether it is known which blanks of the new text were sent already."""
        text, sent = self._held, self._blanks
        if text.startswith(sent):
            self._held = text[len(sent) :]
        else:
            n = n_leading_blank(text)
            if n == len(text) and not is_last:
                return False
            self._held = _new_blanks(sent, text[:n]) + text[n:]
        self._blanks = ""
        return True

    def _drop_rest(self, *, is_last: bool) -> bool:
        """Whether it is known how the half character that was sent goes on."""
        text, sent = self._held, self._rest
        if text.lower().startswith(sent.lower()):
            self._held = text[len(sent) :]
        elif sent.lower().startswith(text.lower()) and not is_last:
            return False
        elif text and self._is_json:
            self._spell_out(text, sent)
        self._rest = ""
        return True

    def _spell_out(self, text: str, sent: str) -> None:
        """The new text shows as a character what was begun as an escape."""
        spelled = json.dumps(text[0])[1:-1]
        if spelled.lower().startswith(sent.lower()):
            self._held = spelled[len(sent) :] + text[1:]
        else:
            raise SeamFailed("the new text does not go on from the escape that was sent")


def _new_blanks(sent: str, blanks: str) -> str:
    """What of *blanks* is still missing after *sent*, which is not its beginning."""
    if sent.endswith("\r") and blanks.startswith("\n"):
        return blanks
    n_missing = len(_LINE_BREAK.findall(blanks)) - len(_LINE_BREAK.findall(sent))
    if n_missing > 0:
        breaks = list(_LINE_BREAK.finditer(blanks))
        return blanks[breaks[-n_missing].start() :]
    # After a line break that was sent, more than one blank is indentation.
    is_indentation = n_missing < 0 and not _LINE_BREAK.search(blanks)
    return blanks if is_indentation and not (sent.endswith("\n") and len(blanks) == 1) else ""
