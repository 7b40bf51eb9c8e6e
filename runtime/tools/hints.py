"""Which format a prompt with tools explains or hints at, where its template writes no calls."""

from __future__ import annotations

from spillover.runtime.tools.formats import FUNCTOOLS, GRANITE, KIMI_K2, LFM2, LLAMA_PYTHON, PHI
from spillover.runtime.tools.tool_format import ToolFormat

_WORDS = (
    (("<|tool_list_start|>",), LFM2),
    (("List of tools: [", "<|im_start|>"), LFM2),
    (("<|tool_call|>", "JSON list"), GRANITE),
    (("<|tool_call|>", "<|/tool_call|>"), PHI),
    (("functools",), FUNCTOOLS),
    (("<|python_start|>",), LLAMA_PYTHON),
    (("<|im_system|>tool_declare<|im_middle|>",), KIMI_K2),
)


def told_by_words(prompt: str) -> ToolFormat | None:
    """The format that a prompt with tools explains or hints at, where its template writes no
    calls."""
    return next((format for words, format in _WORDS if all(word in prompt for word in words)), None)
