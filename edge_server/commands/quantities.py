"""Types of options that are numbers and sizes."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {f"{unit}I": 2 ** (10 * i) for i, unit in enumerate("KMGT", 1)}
_MOST_BYTES = 1 << 50


class FiniteRange(click.FloatRange):
    """A number in a range; click lets NaN pass, which no bound excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no number.", param, ctx)
        return found


def size(ctx: click.Context, param: click.Parameter, given: str | None) -> int | None:
    """The callback of an option for bytes, as in 4GiB, 800 MB or 1.5g; at least one."""
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?I?)B?", given.strip().upper())
    units = {**_UNITS, **_BINARY_UNITS}
    if found is None or found[2] not in units:
        raise click.BadParameter(f"{given!r} is no size: write one such as 4GiB or 800MB")
    n_bytes = int(float(found[1]) * units[found[2]])
    if not 0 < n_bytes <= _MOST_BYTES:
        raise click.BadParameter(f"{given!r} is not between 1 byte and 1 PiB")
    return n_bytes
