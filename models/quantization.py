"""Names of quantizations in file names, and which one suits a device."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = re.compile(
    r"(?:^|[-._/])(?P<name>(?:UD-)?I?Q\d(?:_[A-Z0-9]{1,3}){0,3}|BF16|F16|FP16|F32|FP32|TQ\d_\d|MXFP4)"
    r"(?=[-._]|$)",
    re.IGNORECASE,
)

_BEST_FIRST = (
    "Q4_K_M",
    "UD-Q4_K_XL",
    "Q4_K_L",
    "Q4_K_S",
    "Q5_K_M",
    "Q4_1",
    "Q4_0",
    "IQ4_XS",
    "IQ4_NL",
    "MXFP4",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q6_K",
    "Q8_0",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "Q3_K_S",
    "IQ3_XS",
    "Q2_K",
    "BF16",
    "F16",
    "FP16",
    "F32",
)
"""Four bits with scales for small blocks lose little and are fast on every device."""

_SMALL_BYTES = 1_300_000_000
"""A file of eight bits up to this size is no burden, and small models suffer most from four."""

_ROOM_FOR_EIGHT_BITS = 3


def quantization_of(file_name: str) -> str:
    """The quantization that a file's name tells, in upper case; empty when it tells none."""
    found = [match["name"].upper() for match in _NAME.finditer(file_name)]
    return found[-1] if found else ""


def best_first(sizes: dict[str, int], free_bytes: int) -> list[str]:
    """The quantizations in *sizes* (bytes by name) in the order in which to offer them on a device
    with *free_bytes* of memory: those that fit, best first, then the others, smallest first."""
    fitting = [name for name, size in sizes.items() if size < free_bytes]
    eight = sizes.get("Q8_0", 0)
    is_small = 0 < eight <= min(_SMALL_BYTES, free_bytes / _ROOM_FOR_EIGHT_BITS)
    ranked = (["Q8_0"] if is_small else []) + list(_BEST_FIRST)
    fitting.sort(key=lambda name: (_rank(name, ranked), sizes[name]))
    return fitting + sorted(set(sizes) - set(fitting), key=lambda name: sizes[name])


def is_named(wanted: str, names: Iterable[str]) -> str | None:
    """The one of *names* that a user meant by *wanted*, whatever its case."""
    return next((name for name in names if name.casefold() == wanted.casefold()), None)


def _rank(name: str, ranked: list[str]) -> int:
    return ranked.index(name) if name in ranked else len(ranked)
