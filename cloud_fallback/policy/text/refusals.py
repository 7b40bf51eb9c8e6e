"""Recognises a refusal by the beginning of the answer."""

from __future__ import annotations

import re

_REFUSALS = re.compile(
    r"""
      \bI[ ](?:do[ ]not|don't)[ ](?:really[ ])?(?:know|have[ ](?:the[ ]|any[ ]|enough[ ])?
          (?:access|information|knowledge|ability|data)|understand[ ]the[ ]question)
    | \bI(?:[ ]am|'m)[ ](?:not[ ]able[ ]to|unable[ ]to|not[ ]sure[ ]how[ ]to|only[ ]a[ ]
          |just[ ]an?[ ](?:small|tiny|simple|language|AI|very))
    | \bI[ ]?(?:cannot|can't|can[ ]not|could[ ]not|couldn't|won't|will[ ]not)[ ]
          (?:help|answer|assist|do[ ]that|provide|fulfil|comply|give|write|tell|create|generate
            |access|discuss|engage|solve|explain|translate|say)
    | \bI[ ]only[ ](?:know|tell|speak|understand)(?=\W)
    | \bas[ ]an?[ ](?:AI|artificial|large|small|language|text-based)\b[^.]{0,60}\bI(?=\W)
    | \b(?:sorry|apologi[sz]e)\b[^.!?]{0,60}\b(?:can't|cannot|can[ ]not|don't|do[ ]not|unable
          |not[ ]able|too[ ](?:hard|big|difficult)|not[ ]know)
    | \b(?:too|very)[ ](?:hard|big|difficult)[ ]for[ ](?:me|a[ ](?:tiny|small|little))
    | \b(?:beyond|outside)[ ](?:my|the[ ]scope)
    | \bI\ must\ decline
    | \bich\ (?:kann|weiß)\b[^.]{0,40}\bnicht
    | \bje\ ne\ (?:peux|sais)\ pas
    | \bno\ (?:puedo|sé)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OPENERS = re.compile(
    r"""
    (?: oh,?[ ] | oh[ ]no,?[ ] | hmm,?[ ] | well,?[ ] )?
    (?: i'?(?: m | [ ] | $ ) | sorry | unfortunately | as[ ]an?\b | that[ ]is[ ] | that's[ ]
      | this[ ]is[ ] | apolog | my[ ]apolog | ich\b | es[ ]tut | je\b | lo[ ]siento | no[ ]puedo )
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""How refusals begin; a text that begins like this may become one."""
_OPENING_CHARS = 16


class Refusals:
    """Follows the first *n_chars* characters (0: none) of an answer. A refusal begins like one and
    then declines; the words of a character in a story do not count."""

    __slots__ = ("_n_chars", "_text", "found", "may_come")

    def __init__(self, n_chars: int) -> None:
        self._n_chars = n_chars
        self._text: str | None = "" if n_chars else None
        self.found = False
        self.may_come = False
        """Whether the answer began like a refusal and may still become one."""

    def feed(self, text: str) -> None:
        if self._text is None:
            return
        plain = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        self._text = (self._text + plain).lstrip()[: self._n_chars]
        opens = _OPENERS.match(self._text) is not None
        self.found = opens and _REFUSALS.search(self._text) is not None
        self.may_come = opens and not self.found and len(self._text) < self._n_chars
        if not self.may_come and len(self._text) >= _OPENING_CHARS:
            self._text = None
