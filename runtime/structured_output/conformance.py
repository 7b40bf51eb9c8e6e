"""Whether a text is JSON that follows a schema: bounded, and without fetching anything."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs
import msgspec
from jsonschema import Draft202012Validator, exceptions, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from spillover.runtime.text.surrogates import without_halves

_MAX_STEPS = 50_000
_MAX_CHARS = 4_000_000
_UNCHECKED = ("pattern", "patternProperties", "unevaluatedProperties", "format")
"""Python's re may run forever on a pattern from outside."""


class _TooMuch(Exception):
    """The schema takes more steps than it may."""


def follows(text: str, schema: dict[str, Any]) -> bool:
    """Whether *text* is one JSON value that follows *schema*.

    What cannot be decided counts as followed: patterns, formats, references to other documents,
    an invalid schema, one that takes too long.
    """
    try:
        value = msgspec.json.decode(without_halves(text.encode("utf-8", "replace")))
    except (msgspec.DecodeError, RecursionError):
        return False
    if len(text) > _MAX_CHARS:
        return True
    validator = _counted()(schema, registry=Registry())
    try:
        return next(validator.iter_errors(value), None) is None
    except (_TooMuch, RecursionError, Unresolvable, exceptions.UnknownType):
        return True
    except (TypeError, AttributeError, KeyError, ValueError):
        # jsonschema met a keyword whose value has the wrong type.
        return True


def _counted() -> Any:
    """A validator whose keywords together take at most _MAX_STEPS steps."""
    left = [_MAX_STEPS]

    def counted(name: str, keyword: Callable[..., Any]) -> Callable[..., Any]:
        def check(*arguments: Any) -> Generator[Any]:
            left[0] -= 1
            if left[0] < 0:
                raise _TooMuch
            if _is_undecided(name, *arguments[1::2]):
                return
            yield from keyword(*arguments) or ()

        return check

    keywords = {
        name: counted(name, keyword)
        for name, keyword in Draft202012Validator.VALIDATORS.items()
        if name not in _UNCHECKED
    }
    unchecked = dict.fromkeys(_UNCHECKED, _nothing)
    extend: Any = validators.extend  # has no types
    kind = extend(Draft202012Validator, keywords | unchecked)
    # Its own evolve() changes to the validator that a "$schema" names, which has no limits.
    kind.evolve = attrs.evolve
    return kind


def _is_undecided(keyword: str, value: Any, schema: dict[str, Any]) -> bool:
    if keyword == "additionalProperties":
        return "patternProperties" in schema  # by which it would look for the others
    # In JSON Schema 4 and OpenAPI 3.0 they are true or false, and the grammar has held them.
    return keyword in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool)


def _nothing(*_arguments: Any) -> Generator[Any]:
    yield from ()
