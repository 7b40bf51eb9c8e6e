"""The names that stand for what must not leave, and how models write them when they repeat them.

[EMAIL_1] is the form that is sent. Models also give it back in lower case, with blanks, with
Markdown's backslashes, in Chinese brackets, encoded for a URL, or without brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_NUMBER = 99_999
_DIGITS = r"[0-9]{1,5}"
_SEPARATOR = ("\\\\?", "[_ \\-\u00a0]?")
_BLANK = ("\\s?",)
_BRACKETS = (("\\\\", "\\["), ("\\\\", "\\]")), (("\\[",), ("\\]",)), (("【",), ("】",))
_ENCODED = (("%", "5", "[Bb]"), ("%", "5", "[Dd]"))
BOUNDARY = r"(?<![A-Za-z0-9_])"

Step = str
"""A pattern for at most one character, or the digits at the end."""


class Shapes:
    """The forms of all placeholders with these *labels*.

    *whole* matches one form and what shows that it is complete: its groups are the label and the
    number. *begun* matches what may still become one. *may_begin* finds where to look.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        labels = sorted(labels, key=lambda label: (-len(label), label))
        forms = [form for label in labels for form in _forms(label)]
        self.whole = re.compile("|".join(_whole(form) for form in forms) or r"(?!)")
        self.begun = re.compile("|".join(f"(?:{_begun(form)})" for form in forms) or r"(?!)")
        initials = "".join(sorted({label[0] for label in labels}))
        self.may_begin = re.compile(rf"[\[\\%【]|{BOUNDARY}[{initials}]" if initials else r"(?!)")


class Form:
    """One way to write a placeholder: *opening*, the label, the number, *closing*."""

    def __init__(
        self, label: str, opening: Sequence[Step], closing: Sequence[Step], *, is_bare: bool
    ) -> None:
        self.opening = opening
        self.closing = closing
        self.is_bare = is_bare
        self.name: list[Step] = []
        for character in label:
            if character == "_":
                self.name += ("\\\\?", "_" if is_bare else "[_ \\-]")
            else:
                self.name.append(character if is_bare else f"[{character}{character.lower()}]")

    @property
    def separator(self) -> Sequence[Step]:
        return ("\\\\?", "_") if self.is_bare else _SEPARATOR


def _forms(label: str) -> list[Form]:
    forms = [
        Form(label, (*opening, *_BLANK), (*_BLANK, *closing), is_bare=False)
        for opening, closing in (*_BRACKETS, _ENCODED)
    ]
    return [*forms, Form(label, (), (), is_bare=True)]


def _whole(form: Form) -> str:
    ending = r"(?![A-Za-z0-9_])" if form.is_bare else ""
    return (
        f"{''.join(form.opening)}({''.join(form.name)}){''.join(form.separator)}"
        f"({_DIGITS}){''.join(form.closing)}{ending}"
    )


def _begun(form: Form) -> str:
    pattern = ""
    for step in reversed((*form.opening, *form.name, *form.separator, _DIGITS, *form.closing)):
        pattern = f"(?:{step}{pattern})?" if pattern else f"(?:{step})?"
    return pattern


def placeholder(label: str, number: int) -> str:
    return f"[{label}_{number}]"


def read(match: re.Match[str]) -> tuple[str, int]:
    """The label and the number of what Shapes.whole has matched."""
    label, number = filter(None, match.groups())
    return re.sub(r"\\?[_ -]", "_", label.upper()), int(number)
