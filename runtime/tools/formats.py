"""How model families write tool calls."""

from __future__ import annotations

from msgspec import Struct


class ToolFormat(Struct, frozen=True, kw_only=True):
    """*opening* begins a call, or a list of calls; *closing* ends it, if the format has one."""

    name: str
    opening: str
    closing: str = ""
    arguments: str = "arguments"
    """The member of a call that holds its arguments."""
    is_list: bool = False
    """A list of calls follows the opening."""
    separator: str = ""
    """Between a call's name and its arguments, if they are not members of an object."""
    id_marker: str = ""
    """Before an id that may stand between name and separator."""
    may_be_bare: bool = False
    """An answer may begin with a call without an opening."""
    id_chars: int = 24

    @property
    def markers(self) -> tuple[str, ...]:
        """The strings that may be single tokens of the vocabulary."""
        return tuple(filter(None, (self.opening, self.closing, self.separator, self.id_marker)))


HERMES = ToolFormat(name="hermes", opening="<tool_call>", closing="</tool_call>")
"""Hermes, Qwen 2.5 and 3, and others: each call between tags."""

LLAMA = ToolFormat(name="llama", opening="<|python_tag|>", arguments="parameters", may_be_bare=True)
"""Llama 3.1 and later: the answer is one JSON object."""

MISTRAL = ToolFormat(name="mistral", opening="[TOOL_CALLS]", is_list=True, id_chars=9)
"""Mistral's templates accept only ids of nine characters."""

MISTRAL_ARGS = ToolFormat(
    name="mistral-args", opening="[TOOL_CALLS]", separator="[ARGS]", id_chars=9
)
"""Mistral since mid-2025: name, separator, arguments."""

MISTRAL_IDS = ToolFormat(
    name="mistral-ids",
    opening="[TOOL_CALLS]",
    separator="[ARGS]",
    id_marker="[CALL_ID]",
    id_chars=9,
)
"""The same with the call's id after its name."""


FORMATS = (MISTRAL, MISTRAL_ARGS, MISTRAL_IDS, HERMES, LLAMA)
