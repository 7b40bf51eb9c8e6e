"""Parts of private texts: at the end of an answer that was cut off, and in quotations of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spillover.cloud_fallback.privacy.detectors.account import unfinished_iban
from spillover.cloud_fallback.privacy.detectors.email import unfinished_email
from spillover.cloud_fallback.privacy.detectors.key_shapes import unfinished_key
from spillover.cloud_fallback.privacy.plain import PlainText, Span

MIN_BEGUN_CHARS = 6
MIN_QUOTED_CHARS = 8
MAX_QUOTATIONS = 4
_UNFINISHED = {
    "secret": unfinished_key,
    "email": unfinished_email,
    "iban": unfinished_iban,
}


def begun_value(text: str, values: Iterable[tuple[str, str]]) -> Span | None:
    """A known (kind, value) of which *text* ends with only the beginning."""
    best: Span | None = None
    for kind, value in values:
        least = min(value.find("@") + 1 or len(value), 8) if kind == "email" else MIN_BEGUN_CHARS
        for n in range(len(value) - 1, max(least, 1) - 1, -1):
            start = len(text) - n
            if text.endswith(value[:n]) and not (text[:start][-1:].isalnum()):
                if best is None or start < best.start:
                    best = Span(start, len(text), kind, value)
                break
    return best


def unfinished_value(text: str, kinds: Iterable[str]) -> Span | None:
    """A private text that the end of *text* cuts off."""
    plain = PlainText(text)
    for kind in kinds:
        find = _UNFINISHED.get(kind)
        if find and (span := find(plain.text)):
            start, end = plain.raw_span(span.start, span.end)
            return Span(start, end, kind, text[start:end])
    return None


def quotations(text: str, answer: str) -> Iterator[tuple[int, int]]:
    """Where *text* quotes the end of *answer*: (index, length), longest first."""
    for _ in range(MAX_QUOTATIONS):
        n = _longest_end(answer, text)
        if n < MIN_QUOTED_CHARS:
            return
        place = text.find(answer[len(answer) - n :])
        yield place, n
        # Do not find it again.
        text = text[:place] + "\0" * n + text[place + n :]


def _longest_end(answer: str, text: str) -> int:
    """The length of the longest end of *answer* that is in *text*. (If one is, all shorter ones
    are.)"""
    low, high = 0, min(len(answer), len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if answer[len(answer) - middle :] in text:
            low = middle
        else:
            high = middle - 1
    return low
