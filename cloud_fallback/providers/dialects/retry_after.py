"""When a provider wants to be asked again, by its own words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MAX_DELAY_S = 24 * 3600.0
"""No answer can keep a provider away for longer."""


def retry_delay_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by retry-after-ms or retry-after; None when the headers do not say.

    An HTTP date counts from the answer's own Date header, so a wrong clock here does no harm.
    """
    delay_ms = _number(headers.get("retry-after-ms"))
    if delay_ms is not None:
        return bounded(delay_ms / 1e3)
    value = headers.get("retry-after")
    delay = _number(value)
    if delay is None:
        delay = _until(value, headers.get("date"))
    return bounded(delay)


def protobuf_delay_s(text: str) -> float | None:
    """The seconds of a duration such as "37s" or "1.5s"."""
    return bounded(_number(text.removesuffix("s"))) if text.endswith("s") else None


def bounded(delay_s: float | None) -> float | None:
    """*delay_s* between 0 and a day; None for what is no number."""
    if delay_s is None or math.isnan(delay_s):
        return None
    return min(max(delay_s, 0.0), MAX_DELAY_S)


def _number(text: str | None) -> float | None:
    if text is None or len(text) > 32 or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _until(date: str | None, now: str | None) -> float | None:
    if date is None or now is None:
        return None
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(now)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # TypeError: one of the two has no time zone
        return None
