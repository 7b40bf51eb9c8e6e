"""Values that a program built, checked as those from a file are: msgspec checks no constructor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from spillover.runtime.errors import InvalidRequest

_Value = TypeVar("_Value", bound=msgspec.Struct)
_Kind = TypeVar("_Kind")
_STEP = re.compile(r"\.(\w+)|\[")


def checked(value: _Value) -> _Value:
    """*value*, if each field holds what its type allows.

    Raises InvalidRequest, which names the field and, for a choice between words, the words.
    """
    kind = type(value)
    try:
        return msgspec.convert(msgspec.to_builtins(value, enc_hook=_text), kind, dec_hook=_path)
    except msgspec.ValidationError as error:
        _, found, place = str(error).rpartition(" - at `$.")
        if not found:
            raise InvalidRequest(str(error)) from error
        place = place.rstrip("`")
        choice = ", ".join(allowed_values(kind, place))
        message = f"{error}: it must be one of {choice}" if choice else str(error)
        raise InvalidRequest(message, place) from error


def expect(value: object, kind: type[_Kind], name: str) -> _Kind:
    """*value*, if it is a *kind*. Raises InvalidRequest, which names the argument *name* and says
    what to give."""
    if isinstance(value, kind):
        return value
    given = "None" if value is None else f"a {type(value).__name__}"
    raise InvalidRequest(f"{name} must be a {kind.__name__}, not {given}: pass one", name)


def allowed_values(kind: type[msgspec.Struct], place: str) -> tuple[str, ...]:
    """The words allowed at *place* in *kind*, as msgspec writes it ("policy.switched_off[0]");
    nothing where it is not a choice between words."""
    found: inspect.Type | None = inspect.type_info(kind)
    for step in _STEP.finditer(f".{place}"):
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
    """*kind* without None and without metadata."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _plain(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
    return kind


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError
