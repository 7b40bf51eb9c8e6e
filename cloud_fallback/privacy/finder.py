"""All detectors together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.privacy.detectors.card import cards
from spillover.cloud_fallback.privacy.detectors.email import emails
from spillover.cloud_fallback.privacy.detectors.iban import ibans
from spillover.cloud_fallback.privacy.detectors.ip import ip_addresses
from spillover.cloud_fallback.privacy.detectors.key import keys
from spillover.cloud_fallback.privacy.detectors.phone import Phones, check_regions
from spillover.cloud_fallback.privacy.detectors.secret import secrets
from spillover.cloud_fallback.privacy.detectors.user_pattern import user_patterns
from spillover.cloud_fallback.privacy.plain import PlainText
from spillover.cloud_fallback.privacy.settings import KINDS, Kind, PrivacySettings
from spillover.cloud_fallback.privacy.spans import Span, merged

Detector: TypeAlias = Callable[[str], Iterable[Span]]

_FIRST_TO_LAST: tuple[Kind, ...] = ("secret", "email", "iban", "card", "ip_address", "phone")
MASK = "\0"
MAX_PASSES = 16
assert set(_FIRST_TO_LAST) == set(KINDS)


def check(settings: PrivacySettings) -> None:
    """InvalidRequest names the first pattern or region that is none."""
    user_patterns(settings.patterns)
    check_regions(settings.phone_regions)


class Finder:
    """Finds what *settings* ask for. Where several kinds overlap, the user's own pattern names the
    whole, or else the kind that is surest."""

    def __init__(self, settings: PrivacySettings) -> None:
        check(settings)
        self._phones = Phones(settings.phone_regions)
        found_by: dict[Kind, tuple[Detector, ...]] = {
            "secret": (keys, secrets),
            "email": (emails,),
            "iban": (ibans,),
            "card": (cards,),
            "ip_address": (ip_addresses,),
            "phone": (self._phones,),
        }
        self._own: list[Detector] = [*user_patterns(settings.patterns)]
        wanted = [kind for kind in _FIRST_TO_LAST if kind in settings.kinds]
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
        """The stretches of *raw* that must not leave, in order and apart from each other."""
        return [span for span in merged(self._spans(raw)) if not self._is_allowed(raw, span)]

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
            # Side by side, two numbers may have hidden each other.
            text = _masked(text, spans)
        raise RedactionFailed("a text of the request is made of nothing but private texts")

    def _is_allowed(self, raw: str, span: Span) -> bool:
        return bool(self._allowed) and raw[span.start : span.end].casefold() in self._allowed


def _masked(text: str, spans: list[Span]) -> str:
    pieces: list[str] = []
    done = 0
    for span in merged(spans):
        pieces += (text[done : span.start], MASK * (span.end - span.start))
        done = span.end
    return "".join((*pieces, text[done:]))
