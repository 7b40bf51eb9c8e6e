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


def format_of(template: str | None) -> ToolFormat:
    """The format that a chat template shows; Hermes if it shows none."""
    source = template or ""
    if MISTRAL.opening in source:
        if MISTRAL_ARGS.separator not in source:
            return MISTRAL
        return MISTRAL_IDS if MISTRAL_IDS.id_marker in source else MISTRAL_ARGS
    if HERMES.opening in source:
        return HERMES
    if LLAMA.opening in source or '"parameters": ' in source:
        return LLAMA
    return HERMES


def knows_tools(template: str | None) -> bool:
    """Whether a chat template shows the model its tools and its earlier calls."""
    return template is not None and "tools" in template and "tool_calls" in template
