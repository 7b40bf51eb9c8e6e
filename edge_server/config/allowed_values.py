"""The words that a place within a typed table takes."""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\.(\w+)|\[")


def allowed_values(kind: Any, place: str) -> tuple[str, ...]:
    """What may stand at *place*, as msgspec writes it (".switched_off[0]"), of a value of *kind*;
    nothing where that is no choice between words."""
    found: inspect.Type | None = inspect.type_info(kind)
    for step in _STEP.finditer(place):
        found = _inside(_plain(found), step[1])
    kinds = found.types if isinstance(found, inspect.UnionType) else (found,)
    choices = [kind.values for kind in kinds if isinstance(kind, inspect.LiteralType)]
    return tuple(sorted(str(value) for values in choices for value in values))


def _inside(kind: inspect.Type | None, name: str | None) -> inspect.Type | None:
    """The type of the field *name*; None: of an item."""
    match kind:
        case inspect.StructType():
            return next((f.type for f in kind.fields if f.encode_name == name), None)
        case inspect.VarTupleType() | inspect.ListType():
            return kind.item_type
        case inspect.DictType():
            return kind.value_type
    return None


def _plain(kind: inspect.Type | None) -> inspect.Type | None:
    """*kind* without its None and without what is only said about it."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _plain(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
    return kind
