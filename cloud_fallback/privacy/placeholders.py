"""The placeholders that stand for private texts: how they are written, and what each stands for.

[EMAIL_1] is what is sent. Models also give it back in lower case, with blanks, with Markdown's
backslashes, in Chinese brackets, encoded for a URL, or without brackets.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.errors import RedactionFailed

MAX_NUMBER = 99_999
_DIGITS = r"[0-9]{1,5}"
_BLANK = ("\\s?",)
_BRACKETS = (("\\\\", "\\["), ("\\\\", "\\]")), (("\\[",), ("\\]",)), (("【",), ("】",))
_ENCODED = (("%", "5", "[Bb]"), ("%", "5", "[Dd]"))
BOUNDARY = r"(?<![A-Za-z0-9_])"

Step: TypeAlias = str
"""A pattern for at most one character, or the digits of the number."""
Place: TypeAlias = tuple[str, int]
"""The label and the number of a placeholder."""


class _Form(Struct, frozen=True):
    """One way to write the placeholders of a label."""

    opening: Sequence[Step]
    name: Sequence[Step]
    separator: Sequence[Step]
    closing: Sequence[Step]
    end: str = ""
    """What must follow."""

    def whole(self) -> str:
        """Matches it when it is complete; the groups are the label and the number."""
        opening, name, separator, closing = map(
            "".join, (self.opening, self.name, self.separator, self.closing)
        )
        return f"{opening}({name}){separator}({_DIGITS}){closing}{self.end}"

    def begun(self) -> str:
        """Matches any beginning of it."""
        steps = (*self.opening, *self.name, *self.separator, _DIGITS, *self.closing)
        pattern = ""
        for step in reversed(steps):
            pattern = f"(?:{step}{pattern})?"
        return f"(?:{pattern})"


class Shapes:
    """All forms of the placeholders with these *labels*.

    *whole* matches a complete one; its groups are the label and the number. *begun* matches what
    can still become one. *may_begin* finds where to look.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        labels = sorted(labels, key=lambda label: (-len(label), label))
        forms = [form for label in labels for form in _forms(label)]
        self.whole = re.compile("|".join(form.whole() for form in forms) or r"(?!)")
        self.begun = re.compile("|".join(form.begun() for form in forms) or r"(?!)")
        initials = "".join(sorted({label[0] for label in labels}))
        self.may_begin = re.compile(rf"[\[\\%【]|{BOUNDARY}[{initials}]" if initials else r"(?!)")


def _forms(label: str) -> list[_Form]:
    loose: list[Step] = []
    for character in label:
        is_gap = character == "_"
        loose += ("\\\\?", "[_ \\-]") if is_gap else (f"[{character}{character.lower()}]",)
    bare = [step for c in label for step in (("\\\\?", "_") if c == "_" else (c,))]
    in_brackets = [
        _Form(
            opening=(*opening, *_BLANK),
            name=loose,
            separator=("\\\\?", "[_ \\-\u00a0]?"),
            closing=(*_BLANK, *closing),
        )
        for opening, closing in (*_BRACKETS, _ENCODED)
    ]
    without = _Form((), bare, ("\\\\?", "_"), (), end=r"(?![A-Za-z0-9_])")
    return [*in_brackets, without]


def read(match: re.Match[str]) -> Place:
    """What Shapes.whole has matched."""
    label, number = filter(None, match.groups())
    return re.sub(r"\\?[_ -]", "_", label.upper()), int(number)


class Vault:
    """Gives the same text the same placeholder, and never one that *texts* seem to contain. It
    never leaves the device, and its repr shows no text."""

    def __init__(self, shapes: Shapes, texts: Iterable[str]) -> None:
        self._taken = {
            read(match)
            for text in texts
            if shapes.may_begin.search(text)
            for match in shapes.whole.finditer(text)
        }
        self._last: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        self._values: dict[Place, str] = {}
        self._is_json: set[Place] = set()

    def placeholder(self, kind: str, value: str, *, is_json: bool = False) -> str:
        """The placeholder for *value*. *is_json*: the value has JSON's escapes."""
        place = self._places.get(value)
        if place is None:
            place = self._places[value] = self._next(kind.upper())
            self._values[place] = value
            if is_json:
                self._is_json.add(place)
        label, number = place
        return f"[{label}_{number}]"

    def _next(self, label: str) -> Place:
        number = self._last.get(label, 0) + 1
        while (label, number) in self._taken:
            number += 1
        if number > MAX_NUMBER:
            raise RedactionFailed("the request contains too many private texts to take out")
        self._last[label] = number
        return label, number

    def value(self, place: Place) -> str | None:
        """The text that a placeholder stands for; None: there is no such placeholder."""
        return self._values.get(place)

    def json_value(self, place: Place) -> str | None:
        """The same, as it is written within a JSON string."""
        value = self._values.get(place)
        if value is None or place in self._is_json:
            return value
        return json.dumps(value, ensure_ascii=False)[1:-1]

    @property
    def values(self) -> list[str]:
        """All texts that have a placeholder."""
        return list(self._places)

    def counts(self) -> dict[str, int]:
        """How many texts of each kind."""
        return dict(Counter(label.lower() for label, _ in self._values))

    def __repr__(self) -> str:
        return f"Vault({self.counts()})"
