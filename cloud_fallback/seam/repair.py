"""Smooths a join that could not be verified. It changes only white space, a repeated marker or
fence, and the capital of a common word, and only where the answer's last line calls for it."""

from __future__ import annotations

import re

from spillover.cloud_fallback.seam.preamble import opens_preamble
from spillover.runtime.text.markdown import (
    LIST_MARKER,
    TABLE_ROW,
    is_inside_inline_code,
    is_prose,
    last_line,
    open_fence,
)

_FENCE_LINE = re.compile(r"\s*(```+|~~~+)[\w+#.-]*[ \t]*\r?\n")
_COMMON_WORDS = (
    "The A An And But Or So Then In Into On Of To For With From That Which Who It This These They "
    "He She We You Is Are Was Were As At By If While Because When Not "
    "Der Das Und Oder Aber Ein Eine In Auf Mit Von Zu Ist Wenn Weil Als Nicht "
    "Le La Les Et Mais Ou Un Une Des Du De Dans Que Qui Est Pour Avec "
    "El Los Las Y Pero O En Es Con Por Para Il Lo Gli E Ma Di Per"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_WORD = re.compile(r"([^\W\d_]+)(?=\s)")
_LAST_WORD = re.compile(r"(?:^|[\s(\"'«„“])([^\W\d_]{2,}|a)\Z")
_NAME = re.compile(r"[^\W\d_]{2,}(?![\w(]|[.:]\w)")
_INNER_CAPITAL = re.compile(r"[^\W\d_A-Z][A-Z]")
_ENDS_SENTENCE = re.compile(r"[^\W\d_][.!?…][\"'\u201d\u2019)]*\Z")
_CODE_LIKE = re.compile(r"[=;{}]|\w\(")
_LINK_LIKE = re.compile(r"[/@\\=&#]|www\.|\.\w+\.\Z")


def repaired(before: str, text: str) -> str:
    """*text*, adjusted to follow *before*."""
    fence = open_fence(before)
    if fence is not None:
        return _without_fence(text, fence)
    if is_inside_inline_code(before) or not before:
        return text
    text = _without_marker(before, text)
    if not is_prose(before):
        return text
    return _spaced(before, text)


def _is_another_word(before: str, text: str) -> bool:
    """Whether a letter meets the capital of a new word: "eat", "Ruby". Two small letters may be
    one word or two, and nothing shows which."""
    first, second = _LAST_WORD.search(before[-64:]), _NAME.match(text)
    if first is None or second is None or _INNER_CAPITAL.search(before):
        return False
    return first[1].islower() and second[0][0].isupper() and second[0][1:].islower()


def _without_fence(text: str, fence: str) -> str:
    """Inside a code block, drop a repeated opening fence, which would close the block."""
    found = _FENCE_LINE.match(text)
    if found and found[1].startswith(fence) and found[0].strip() != found[1]:
        return text[found.end() :]
    return text


def _without_marker(before: str, text: str) -> str:
    """Drop a list marker that *before* already ends with, and add a missing line break."""
    line = last_line(before)
    marker = LIST_MARKER.match(line)
    again = LIST_MARKER.match(text)
    if marker and again and not line[marker.end() :].strip():
        if marker[0].strip() == again[0].strip():
            blank = "" if line[-1].isspace() else " "
            return blank + text[again.end() :].lstrip()
        return text
    is_row = TABLE_ROW.match(line) and line.rstrip().endswith("|") and TABLE_ROW.match(text)
    is_item = marker and again and _follows(marker[0].strip()[:-1], again[0].strip()[:-1])
    return "\n" + text if line.strip() and (is_row or is_item) else text


def _follows(first: str, second: str) -> bool:
    """Whether the number *second* of a list comes after *first*."""
    return first.isdigit() and second.isdigit() and int(second) == int(first) + 1


def _spaced(before: str, text: str) -> str:
    last = before[-1]
    bare = text.lstrip()
    blanks = text[: len(text) - len(bare)]
    if not bare:
        return text
    if last.isspace():
        return bare if blanks and not ("\n" in blanks or "\r" in blanks) else text
    is_open = last.isalnum() or last in ",;"
    if is_open and "\n" in blanks and bare[0].islower():
        return " " + bare
    if not blanks and is_open and bare[0].isupper() and opens_preamble(bare):
        return "\n\n" + bare
    if not blanks and is_open and (found := _WORD.match(bare)) and found[1] in _COMMON:
        return " " + bare[0].lower() + bare[1:]
    if not blanks and _is_another_word(before, bare):
        return " " + text
    if not blanks and bare[0].isupper() and _ENDS_SENTENCE.search(before[-8:]):
        is_code = _CODE_LIKE.search(last_line(before)) or _LINK_LIKE.search(before.split()[-1])
        return text if is_code else " " + text
    return text
