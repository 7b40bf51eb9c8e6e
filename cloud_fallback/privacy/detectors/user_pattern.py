"""The user's own patterns, matched by RE2: in time proportional to the text, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import re2

from spillover.cloud_fallback.privacy.settings import KINDS, UserPattern
from spillover.cloud_fallback.privacy.spans import Span
from spillover.runtime.errors import InvalidRequest

MAX_MEMORY_BYTES = 1 << 21


def user_patterns(patterns: Sequence[UserPattern]) -> list[Callable[[str], Iterator[Span]]]:
    """A detector for each.

    Raises InvalidRequest that names a pattern which is none for RE2, such as one that needs
    unbounded time, and a name that is taken.
    """
    names = {kind.upper() for kind in KINDS}
    detectors = []
    for place, pattern in enumerate(patterns):
        if pattern.name.upper() in names:
            raise InvalidRequest(
                f"the name {pattern.name!r} of a pattern is taken: choose another",
                f"patterns[{place}].name",
            )
        names.add(pattern.name.upper())
        detectors.append(_detector(pattern, place))
    return detectors


def _detector(pattern: UserPattern, place: int) -> Callable[[str], Iterator[Span]]:
    compiled = _compiled(pattern, place)
    group = 1 if compiled.groups else 0

    def detect(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            start, end = match.span(group)
            if start < end:
                yield Span(start, end, pattern.name.lower())

    return detect


def _compiled(pattern: UserPattern, place: int) -> Any:
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise InvalidRequest(
            f"the pattern {pattern.name!r} is none for RE2: {reason}. Backreferences and "
            "look-around are not allowed, since they may need unbounded time",
            f"patterns[{place}].pattern",
        ) from error
    if compiled.search("") is not None:
        raise InvalidRequest(
            f"the pattern {pattern.name!r} matches the empty text: make it match something",
            f"patterns[{place}].pattern",
        )
    return compiled
