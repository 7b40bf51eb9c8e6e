"""Patterns that users write, matched by RE2: the time is linear in the text for every pattern."""

from __future__ import annotations

from typing import Any

from spillover.runtime.errors import InvalidRequest

_MAX_MEMORY_BYTES = 1 << 20


def compile_pattern(
    pattern: str,
    what: str,
    param: str | None = None,
    *,
    max_memory_bytes: int = _MAX_MEMORY_BYTES,
    longest_match: bool = False,
) -> Any:
    """The compiled pattern. InvalidRequest names *what* and *param* if it is invalid."""
    import re2  # only here: most configurations have no pattern

    options = re2.Options()
    options.max_mem = max_memory_bytes
    options.longest_match = longest_match
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        raise InvalidRequest(
            f"{what} is not valid in RE2: {reason}. RE2 has no backreferences and "
            "no look-around, because they can take unbounded time",
            param,
        ) from error


def escape_pattern(text: str) -> str:
    """A pattern that matches *text* and nothing else."""
    import re2

    escaped: str = re2.escape(text)
    return escaped
