"""What is particular to the way in which a model writes tool calls."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, TypeAlias

from msgspec import Struct

Encoding: TypeAlias = Literal["object", "json", "tags", "elements", "literals"]
"""How a call's arguments are written: members of one JSON object that also holds its name; a JSON
object behind its name; each between tags; each in an element that its key names, and so what it
holds; each as a literal of Python's kind."""

ITEM = "item"
"""The key of what stands in a list, among elements."""

_NAME = "[A-Za-z0-9_.:/-]+?"


class ToolFormat(Struct, frozen=True, kw_only=True):
    """*opening* begins a call, or several; *closing* ends it, if the format has one.

    Between them each call is: *call_opening*, name, *separator*, arguments, *call_closing*. White
    space around these marks is as the templates write it, and optional. Tagged arguments are:
    *key_opening*, key, *key_closing*, *value_opening*, value, *value_closing*. Behind the value of
    an element its key and *key_closing* stand again.
    """

    name: str
    opening: str
    closing: str = ""
    encoding: Encoding = "object"
    name_member: str = "name"
    """The member of a call that holds its name."""
    arguments: str = "arguments"
    """The member of a call that holds its arguments."""
    id_member: str = ""
    """The member of a call that numbers it."""
    is_list: bool = False
    """A list of calls in brackets follows the opening."""
    is_sequence: bool = False
    """Several calls, without brackets, may follow the opening."""
    leads: tuple[str, ...] = ()
    """What may stand before the opening of an answer that begins with a call."""
    call_opening: str = ""
    call_closing: str = ""
    call_id: str = ""
    """A pattern of the id that a call begins with."""
    name_opening: str = ""
    """Between that id and the name."""
    separator: str = ""
    """Between a call's name and its arguments, if they are not members of an object."""
    id_marker: str = ""
    """What may stand between name and separator, before *gap*."""
    gap: str = ""
    """A pattern of what stands there and is no part of the name: a number, an id."""
    gap_parts: tuple[str, ...] = ()
    """The texts that *gap* may consist of, all of them optional."""
    key_opening: str = ""
    key_closing: str = ""
    value_opening: str = ""
    value_closing: str = ""
    text_mark: str = ""
    """What stands between key and value where the value is a text."""
    other_marks: str = ""
    """A pattern of what stands there otherwise."""
    quotes: tuple[str, ...] = ()
    """They enclose a text among literals; without escapes, but for those of one character."""
    text_opening: str = ""
    text_closing: str = ""
    """They may enclose a tagged text; a text without them has no "<", "&" or line break."""
    may_be_bare: bool = False
    """An answer may begin with a call without an opening."""
    may_be_text: bool = False
    """The opening also occurs in texts."""
    id_chars: int = 24

    @property
    def repeats(self) -> bool:
        """Whether each of several calls has an opening of its own."""
        ends = bool(self.closing or self.call_closing) or self.encoding != "object"
        return ends and not (self.is_list or self.is_sequence)

    @property
    def markers(self) -> tuple[str, ...]:
        """The strings that may be, or hold, single tokens of the vocabulary."""
        marks = (
            *(
                *self.leads,
                *self.gap_parts,
                self.opening,
                self.closing,
                self.call_opening,
                self.call_closing,
            ),
            *(self.separator, self.id_marker, self.name_opening),
            *(self.key_opening, self.key_closing, self.value_opening, self.value_closing),
            *(self.text_opening, self.text_closing, *self.quotes),
        )
        return tuple(mark.strip() for mark in marks if len(mark.strip()) > 1)

    def name_in(self, head: str) -> str:
        """The name in what stands before a call's arguments."""
        head = head.strip().removesuffix(self.separator.strip())
        if self.name_opening:
            head = head.partition(self.name_opening)[2]
        found = _name_pattern(self.id_marker, self.gap).fullmatch(head)
        return found[1] if found else head


@cache
def _name_pattern(id_marker: str, gap: str) -> re.Pattern[str]:
    behind = f"(?:{re.escape(id_marker)})?\\s*(?:{gap})?" if gap else ""
    return re.compile(rf"\s*({_NAME})\s*{behind}\s*")
