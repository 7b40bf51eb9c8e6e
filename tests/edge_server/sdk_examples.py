"""Examples of what an official client can send, made from the types of its parameters."""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import Iterator
from typing import Any

import typing_extensions


def example(kind: Any) -> Any:
    """A value of *kind*, with every field that it may have."""
    return next(examples(kind))


def examples(kind: Any) -> Iterator[Any]:
    """Values of *kind*: of each member of a union, and of an object with null where it may be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Required, typing_extensions.Required, typing.Annotated):
        yield from examples(arguments[0])
    elif typing_extensions.is_typeddict(kind):
        hints = typing_extensions.get_type_hints(kind)
        full = {name: example(hint) for name, hint in hints.items()}
        yield full
        optional = {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
        if optional:
            yield full | dict.fromkeys(optional)
    elif origin is typing.Literal:
        yield arguments[0]
    elif origin is typing.Union:
        for member in arguments:
            if member is not type(None):
                yield from examples(member)
    elif origin in (dict, collections.abc.Mapping):
        yield {}
    elif origin is not None:  # a sequence
        yield [example(arguments[0])]
    else:
        yield {str: "x", int: 1, float: 1.0, bool: True}.get(kind, {})
