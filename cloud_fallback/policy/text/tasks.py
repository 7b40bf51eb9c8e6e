"""What a prompt asks for, told by its words, and what of it an answer cannot have right.

Small models are much worse at some kinds of task than at others, and their confidence hardly shows
it. The calibration finds the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import add, mul, sub, truediv

_MOST_CHARS = 2_000
"""A task is told at the beginning or at the end of a prompt."""
_KINDS = {
    "asks_number": r"""\d\s*(?:[-+*/\u00d7\u00f7=^%]|times|plus|minus|divided|percent)
        | \bhow[ ](?:many|much|old|far|long)\b | \bsquare[ ]root\b | \b(?:half|quarter|third)[ ]of\b
        | \b(?:calculate|compute|solve|convert|add|subtract|multiply)\b""",
    "asks_code": r"""```|\b(?:python|java|javascript|typescript|rust|sql|html|css|bash|shell|regex
        |git|code|coding|script|function|algorithm|program)\b""",
    "asks_translation": r"""\btranslat | \b(?:in|into|to|from|word|means?|say)\b[^.?!]{0,40}
        \b(?:french|spanish|german|italian|portuguese|dutch|russian|chinese|japanese|korean|arabic
        |latin)\b""",
    "asks_brevity": r"""\b(?:one|single)[ ]word\b | \bnothing[ ]else\b
        | \b(?:only|just)[ ](?:the|that|with)\b
        | \b(?:say|reply|answer|name)[ ](?:\w+[ ])?(?:only|just)\b
        | \bmost[ ](?:two|three|four|five|six|ten)[ ]words\b""",
    "asks_form": r"""\b(?:json|xml|yaml|csv|exactly|bullet[ ]points?|numbered[ ]list
        |capital[ ]letters|upper[ ]case|lower[ ]case|at[ ]most|no[ ]more[ ]than)\b""",
}
_PATTERNS = {
    name: re.compile(pattern, re.IGNORECASE | re.VERBOSE) for name, pattern in _KINDS.items()
}
_VALUE = r"(\d[\d,]{0,15}(?:\.\d{1,9})?)"
_OPERATOR = r"[-+*/\u00d7\u00f7\u2212x]"
_EQUATION = re.compile(
    rf"(?<![\d.,)=])(?<!{_OPERATOR})(?<![=)]\s)(?<!{_OPERATOR}\s)"
    rf"{_VALUE}\s?({_OPERATOR})\s?{_VALUE}\s?=\s?\$?{_VALUE}(?=[^\d.,]|[.,]\D)(?!\s?{_OPERATOR})"
)
_OPERATORS = {
    "+": add,
    "-": sub,
    "\N{MINUS SIGN}": sub,
    "*": mul,
    "x": mul,
    "\N{MULTIPLICATION SIGN}": mul,
    "/": truediv,
    "\N{DIVISION SIGN}": truediv,
}
_LONGEST_EQUATION = 80
_LONGEST_RESULT = 12
"""Pieces of text from the equals sign to what follows the result."""
_ROUNDING = 0.011
"""Relative; results are often rounded to two digits."""


class Task:
    """Follows the answer to *prompt*."""

    __slots__ = ("_asks", "_has_wrong_sum", "_n_open")

    def __init__(self, prompt: str) -> None:
        n_words = len(prompt.split())
        if len(prompt) > 2 * _MOST_CHARS:
            prompt = f"{prompt[:_MOST_CHARS]}\n{prompt[-_MOST_CHARS:]}"
        self._asks = {name: float(bool(kind.search(prompt))) for name, kind in _PATTERNS.items()}
        self._asks["prompt_length"] = math.log1p(n_words)
        self._n_open = 0
        self._has_wrong_sum = False

    def feed(self, piece: str, end: Callable[[], str]) -> None:
        """Take more of the answer, whose end is *end()*."""
        if "=" in piece:
            self._n_open = _LONGEST_RESULT
        elif not self._n_open:
            return
        self._n_open -= 1
        if not self._has_wrong_sum:
            text = end()
            if len(text) > _LONGEST_EQUATION:  # from the beginning of a number
                text = text[-_LONGEST_EQUATION:].partition(" ")[2]
            self._has_wrong_sum = has_wrong_sum(text)

    def features(self) -> dict[str, float]:
        """1 for each kind of task that the prompt sets, else 0; the length of the prompt; and
        whether the answer holds a sum that is wrong."""
        return self._asks | {"wrong_sum": float(self._has_wrong_sum)}


def has_wrong_sum(text: str) -> bool:
    """Whether *text* holds "a + b = c" (or with another operator) for which this is not so."""
    for a, operator, b, result in _EQUATION.findall(text):
        operation = _OPERATORS[operator]
        x, y, z = (float(value.replace(",", "")) for value in (a, b, result))
        if operation is truediv and not y:
            return True
        if abs(operation(x, y) - z) > _ROUNDING * max(abs(z), 1.0):
            return True
    return False
