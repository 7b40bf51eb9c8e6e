"""Finds a chat template's control tokens written out in an answer."""

from __future__ import annotations

import re

_MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|USER_TOKEN|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<｜User｜>",  # noqa: RUF001  # DeepSeek writes its markers with these bars
    "<｜Assistant｜>",  # noqa: RUF001
    "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "### Instruction:",
    "\nHuman:",
    "\nUser:",
)
_FIRST = re.compile(r"[<\[#\n]")
_LONGEST = max(map(len, _MARKERS))
_ANY = re.compile("|".join(map(re.escape, _MARKERS)))


class Leaks:
    """Follows the text as it grows. Markers that the conversation itself speaks of are allowed."""

    __slots__ = ("_allowed", "_open", "_start", "found_at")

    def __init__(self, conversation: str) -> None:
        self._allowed = frozenset(m for m in _MARKERS if m.strip() in conversation)
        self.found_at: int | None = None
        """Where the first marker begins in the text."""
        self._open = ""
        """The end of the text, from where a marker may have begun."""
        self._start = 0
        """Where *_open* begins in the text."""

    @property
    def is_open(self) -> bool:
        """Whether the text ends with the beginning of a marker."""
        return len(self._open) > 1

    def feed(self, text: str, start_char: int) -> None:
        """Take text that begins at *start_char* of the answer."""
        if self.found_at is not None:
            return
        if not self._open:
            first = _FIRST.search(text)
            if first is None:
                return
            self._start = start_char + first.start()
            self._open = text[first.start() :]
        else:
            self._open += text
        self._look()

    def _look(self) -> None:
        for match in _ANY.finditer(self._open):
            if match.group() not in self._allowed:
                self.found_at = self._start + match.start()
                return
        for first in _FIRST.finditer(self._open, max(len(self._open) - _LONGEST, 0)):
            rest = self._open[first.start() :]
            if any(m.startswith(rest) for m in _MARKERS if m not in self._allowed):
                self._start += first.start()
                self._open = rest
                return
        self._open = ""
