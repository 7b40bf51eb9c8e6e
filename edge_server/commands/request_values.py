"""Fields of a request as a user writes them."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.config import setting_type
from spillover.edge_server.errors import ConfigError
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling


def default_text(struct: type[Struct], name: str) -> str:
    """The default of a field, as help texts show it."""
    return setting_type.show(_field(struct, name).default)


def read_value(struct: type[Struct], name: str, text: object, source: str) -> Any:
    """*text* as the field's type. Raises ConfigError, which names *source*."""
    field = _field(struct, name)
    try:
        return setting_type.convert(text, field.type, from_text=True)
    except ValueError:
        allowed = setting_type.describe(field.type)
        raise ConfigError(f"{source}: {text!r} is not allowed: {name} is {allowed}") from None


def given(struct: type[Struct], texts: dict[str, Any]) -> dict[str, Any]:
    """The values of the flags that were given, by field name. Raises ConfigError."""
    return {
        name: read_value(struct, name, text, "--" + name.replace("_", "-"))
        for name, text in texts.items()
        if text is not None and text != ()
    }


def owner_of(name: str) -> type[Struct]:
    """Which of Sampling and GenerationRequest has a setting of an answer. Raises ConfigError."""
    known = [field.name for field in msgspec.structs.fields(Sampling)]
    if name in known:
        return Sampling
    if name == "max_tokens":
        return GenerationRequest
    near = difflib.get_close_matches(name, [*known, "max_tokens"], n=1)
    guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, max_tokens"
    raise ConfigError(f"there is no setting {name} of an answer: {guess}")


def _field(struct: type[Struct], name: str) -> msgspec.structs.FieldInfo:
    return next(field for field in msgspec.structs.fields(struct) if field.name == name)
