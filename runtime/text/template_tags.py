"""The tags of chat templates in one table, and where they leak into a text."""

from __future__ import annotations

import re
from typing import NamedTuple

from spillover.runtime.text.markdown import is_inside_inline_code, open_fence
from spillover.runtime.text.partial_match import PartialMatch


class TagPair(NamedTuple):
    """What opens and closes a stretch of text."""

    open: str
    close: str


HARMONY_ANALYSIS = TagPair("<|channel|>analysis<|message|>", "<|end|>")
SOLAR_THINKING = TagPair("<|think|>", "<|end|>")

REASONING_TAGS = (
    TagPair("<think>", "</think>"),
    TagPair("<thinking>", "</thinking>"),
    TagPair("<thought>", "</thought>"),
    TagPair("<reasoning>", "</reasoning>"),
    TagPair("<seed:think>", "</seed:think>"),
    TagPair("[THINK]", "[/THINK]"),
    TagPair("<think:opensource>", "</think:opensource>"),
    TagPair("<mm:think>", "</mm:think>"),
    TagPair("<|START_THINKING|>", "<|END_THINKING|>"),
    TagPair("<|channel>thought", "<channel|>"),
    TagPair("<|inner_prefix|>", "<|inner_suffix|>"),
    SOLAR_THINKING,
    HARMONY_ANALYSIS,
)
"""They enclose reasoning: Hy3's, MiniMax M3's, Cohere's, Gemma's, Apertus's, Solar's and harmony's
are the last."""

PREAMBLE = TagPair("<|channel|>commentary<|message|>", "<|end|>")
"""It encloses text that goes with harmony's calls."""

ROLES = ("<|start|>assistant", "<|begin|>assistant")
"""They stand before each part of an answer."""

ANSWER_OPENINGS = (
    *ROLES, "<|channel|>final<|message|>", "<|channel|>commentary ", "<|content|>",
    "<|START_RESPONSE|>", "<|START_TEXT|>", "</mm:think>", ">>>all\n",
)  # fmt: skip
"""They stand before an answer, behind its reasoning or in its place."""

ANSWER_LEADS = {
    HARMONY_ANALYSIS: "<|start|>assistant<|channel|>final<|message|>",
    SOLAR_THINKING: "<|begin|>assistant<|content|>",
}
"""What leads from reasoning to an answer that is not a call, where that is more than a tag."""

TOOL_TAGS = (
    "<seed:tool_call>", "</seed:tool_call>", "<tool_calls:opensource>", "</tool_calls:opensource>",
    "<minimax:tool_call>", "</minimax:tool_call>", "<atem:function_calls>",
    "</atem:function_calls>", "<\uff5cDSML\uff5cfunction_calls>",
    "</\uff5cDSML\uff5cfunction_calls>", "<\uff5cDSML\uff5ctool_calls>",
    "</\uff5cDSML\uff5ctool_calls>", "<TOOLCALL>", "</TOOLCALL>",
    "]<]minimax[>[", "<|tool_call>", "<tool_call|>", "<|/tool_call|>", "<function=",
    '<function name="', "</function>",
    "<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", "<function_call>",
    "</function_call>", "<tool_response>", "</tool_response>", "<|python_tag|>", "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
)  # fmt: skip
"""They enclose tools, calls and results."""

TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>",
    "<end_of_turn>", "<|end_of_turn|>", "<turn|>", "<end_of_utterance>", "<|return|>", "<|call|>",
    "<|calls|>", "<|flush|>", "<|assistant_end|>", "<EOT>", "[EOT]", "<|eot|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
"""They end an answer if the vocabulary has them as one token."""

PART_ENDS = {"<|end|>": frozenset(("<|return|>", "<|calls|>"))}
"""What ends only a part of an answer in a vocabulary that has one of these, too."""

TURN_TAGS = (
    *TURN_ENDS,
    "<|im_start|>", "<|im_sep|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|user|>", "<|assistant|>", "<|system|>", "<|start|>", "<|channel|>", "<|message|>",
    "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<start_of_turn>",
    "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
)  # fmt: skip
"""They enclose turns and their parts."""

TURN_HEADINGS = ("### Instruction:", "\nHuman:", "\nUser:")
"""Turns of templates without tags. People write them too, so they are a leak only if the
conversation does not mention them."""

TAGS = (*(tag for pair in REASONING_TAGS for tag in pair), *TOOL_TAGS, *TURN_TAGS)
"""What another model must not see as part of an answer."""

_CONTROL = r"<[|\uff5c][A-Za-z][\w\u2581: -]{0,40}[|\uff5c]>"
"""Control tokens that the table does not list."""
_ANY = re.compile("|".join((_CONTROL, *map(re.escape, TAGS))))
_OPEN_CONTROL = re.compile(r"<[|\uff5c][A-Za-z][\w\u2581:]{0,40}[|\uff5c]?\Z")
_OPEN_TAG = PartialMatch(TAGS)
_CALL = re.compile(
    r"^[ \t]*(?:```(?:json)?\s*)?\[?\s*\{\s*\"(?:name|function|tool|tool_name)\"\s*:\s*[\"{]",
    re.MULTILINE,
)
_MAX_TAG_CHARS = 48
_MIN_OPEN_TAG_CHARS = 4
"""Fewer characters of a tag occur too often in other texts."""


def has_tags(text: str) -> bool:
    """Whether *text* shows tags of a chat template, in code blocks too."""
    return _ANY.search(text) is not None


def leak_start(text: str, *, has_tools: bool = False) -> int | None:
    """Where leaked template text, open reasoning or half a tool call begins; None: nowhere.

    Tags shown as code are quoted, not leaked. *has_tools*: a JSON object that looks like a call
    is one.
    """
    for found in _ANY.finditer(text):
        if not _is_quoted(text, found.start()):
            return found.start()
    call = _CALL.search(text) if has_tools else None
    return call.start() if call else None


def n_open_tag(text: str) -> int:
    """How many last characters of *text* may be the beginning of a tag that is not quoted."""
    tail = text[-_MAX_TAG_CHARS:]
    found = _OPEN_CONTROL.search(tail)
    n = max(len(tail) - found.start() if found else 0, _OPEN_TAG.n_at_end(tail))
    is_open = found or n >= _MIN_OPEN_TAG_CHARS
    return n if is_open and not _is_quoted(text, len(text) - n) else 0


def _is_quoted(text: str, start: int) -> bool:
    before = text[:start]
    return is_inside_inline_code(before) or open_fence(before) is not None
