"""Finds what must not leave: with detectors, with the user's patterns, and known texts again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.privacy.detectors.account import cards, ibans
from spillover.cloud_fallback.privacy.detectors.email import emails
from spillover.cloud_fallback.privacy.detectors.ip import ip_addresses
from spillover.cloud_fallback.privacy.detectors.key_shapes import keys
from spillover.cloud_fallback.privacy.detectors.labelled import labelled
from spillover.cloud_fallback.privacy.detectors.mac import mac_addresses
from spillover.cloud_fallback.privacy.detectors.national_id import national_ids
from spillover.cloud_fallback.privacy.detectors.phone import Phones, check_regions
from spillover.cloud_fallback.privacy.detectors.phrases import phrases
from spillover.cloud_fallback.privacy.detectors.places import placed_secrets
from spillover.cloud_fallback.privacy.detectors.tables import secrets_in_columns
from spillover.cloud_fallback.privacy.plain import PlainText, Span, merged
from spillover.cloud_fallback.privacy.settings import KINDS, Kind, PrivacySettings, UserPattern
from spillover.cloud_fallback.re2_patterns import compile_pattern, escape_pattern
from spillover.runtime.errors import InvalidRequest

Detector: TypeAlias = Callable[[str], Iterable[Span]]

_SUREST_FIRST: tuple[Kind, ...] = (
    *("secret", "email", "iban", "card", "mac_address", "ip_address", "national_id", "phone"),
)
MAX_NAMED_CHARS = 512
"""A longer text is no password."""
MASK = "\0"
MAX_PASSES = 16
MIN_KNOWN_CHARS = 6
"""Shorter texts, such as the password "abc1", are parts of other texts by chance."""
SURE_CHARS = 12
"""A longer text is meant even within a word."""
_MAX_PATTERN_BYTES, _MAX_KNOWN_BYTES = 1 << 21, 1 << 26
"""Memory of RE2 for one user's pattern, and for all known texts."""
assert set(_SUREST_FIRST) == set(KINDS)


def check(settings: PrivacySettings) -> None:
    """Raises InvalidRequest that names the first invalid pattern or region."""
    _user_detectors(settings.patterns)
    check_regions(settings.phone_regions)


class Finder:
    """Finds what *settings* ask for. Where several kinds overlap, the user's own pattern names the
    whole, or else the surest kind."""

    def __init__(self, settings: PrivacySettings) -> None:
        check_regions(settings.phone_regions)
        self._phones = Phones(settings.phone_regions)
        found_by: dict[Kind, tuple[Detector, ...]] = {
            "secret": (keys, placed_secrets, labelled, secrets_in_columns, phrases),
            "email": (emails,),
            "iban": (ibans,),
            "card": (cards,),
            "ip_address": (ip_addresses,),
            "mac_address": (mac_addresses,),
            "national_id": (national_ids,),
            "phone": (self._phones,),
        }
        self._own = _user_detectors(settings.patterns)
        wanted = [kind for kind in _SUREST_FIRST if kind in settings.kinds]
        self._detectors = [*self._own, *(one for kind in wanted for one in found_by[kind])]
        self._allowed = {text.casefold() for text in settings.allow}
        self.labels = [
            *(kind.upper() for kind in settings.kinds),
            *(pattern.name.upper() for pattern in settings.patterns),
        ]

    def warm(self) -> None:
        """Read the tables that the first number would have to wait for: about 0.1 s."""
        self._phones.warm()

    def find(self, raw: str) -> list[Span]:
        """The parts of *raw* that must not leave, in order and without overlap."""
        found = merged(self._spans(raw))
        texts = [raw[span.start : span.end] for span in found]
        return [
            Span(span.start, span.end, span.kind, text)
            for span, text in zip(found, texts, strict=True)
            if not self._allowed or text.casefold() not in self._allowed
        ]

    def find_named(self, name: str, raw: str) -> list[Span]:
        """The same for a value of JSON, which its *name* may make private: {"pin": 4711}."""
        if len(raw) > MAX_NAMED_CHARS:
            return []
        before = f'"{name}": "'
        n_before = len(before)
        return [
            Span(span.start - n_before, span.end - n_before, span.kind, span.value)
            for span in self.find(f'{before}{raw}"')
            if n_before <= span.start < span.end <= n_before + len(raw)
        ]

    def _spans(self, raw: str) -> list[Span]:
        plain = PlainText(raw)
        found = [span for own in self._own for span in own(raw)] if plain.text is not raw else []
        text = plain.text
        for _ in range(MAX_PASSES):
            spans = [
                span
                for detect in self._detectors
                for span in detect(text)
                if text[span.start : span.end].strip(MASK)
            ]
            if not spans:
                return found
            found += [Span(*plain.raw_span(span.start, span.end), span.kind) for span in spans]
            # Of two numbers side by side one may have hidden the other.
            text = masked(text, spans)
        raise RedactionFailed("a text of the request consists of nothing but private texts")


def masked(text: str, spans: list[Span]) -> str:
    """*text* with MASK in the place of each character of *spans*."""
    pieces: list[str] = []
    done = 0
    for span in merged(spans):
        pieces += (text[done : span.start], MASK * (span.end - span.start))
        done = span.end
    return "".join((*pieces, text[done:]))


def _user_detectors(patterns: Sequence[UserPattern]) -> list[Detector]:
    """A detector for each pattern. Raises InvalidRequest for an invalid one or a name in use."""
    names = {kind.upper() for kind in KINDS}
    detectors = []
    for index, pattern in enumerate(patterns):
        if pattern.name.upper() in names:
            raise InvalidRequest(
                f"the name {pattern.name!r} of a pattern is taken: choose another",
                f"patterns[{index}].name",
            )
        names.add(pattern.name.upper())
        detectors.append(_user_detector(pattern, f"patterns[{index}].pattern"))
    return detectors


def _user_detector(pattern: UserPattern, param: str) -> Detector:
    what = f"the pattern {pattern.name!r}"
    compiled = compile_pattern(pattern.pattern, what, param, max_memory_bytes=_MAX_PATTERN_BYTES)
    if compiled.search("") is not None:
        raise InvalidRequest(f"{what} matches the empty text: make it match something", param)
    group = 1 if compiled.groups else 0

    def detect(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            start, end = match.span(group)
            if start < end:
                yield Span(start, end, pattern.name.lower())

    return detect


class KnownTexts:
    """Finds *texts* that are known to be private in other texts, the longest at each place. Linear
    in the length of the text."""

    def __init__(self, texts: Iterable[str]) -> None:
        escaped = [escape_pattern(text) for text in texts if len(text) >= MIN_KNOWN_CHARS]
        self._pattern: Any = None
        if escaped:
            self._pattern = compile_pattern(
                "|".join(escaped),
                "the list of private texts",
                max_memory_bytes=_MAX_KNOWN_BYTES,
                longest_match=True,
            )

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        if self._pattern is None:
            return
        for match in self._pattern.finditer(text):
            start, end = match.span()
            if end - start >= SURE_CHARS or _stands_alone(text, start, end):
                yield start, end


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (
        (text[start].isalnum() and text[start - 1 : start].isalnum())
        or (text[end - 1].isalnum() and text[end : end + 1].isalnum())
    )
