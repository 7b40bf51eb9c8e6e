"""Every text of a request that a provider would see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonSchema,
    Lark,
    Message,
    NamedTool,
    Regex,
    Tool,
    ToolCall,
)
from spillover.runtime.sampling import Sampling

S = TypeVar("S", bound=Struct)

_NAMES = {
    (Message, "tool_call_id"),
    (ToolCall, "id"),
    (ToolCall, "name"),
    (Tool, "name"),
    (NamedTool, "name"),
    (JsonSchema, "name"),
    (Regex, "pattern"),
    (Lark, "grammar"),
    (Gbnf, "grammar"),
}
"""Texts that cannot be changed without breaking the request."""
_SCHEMAS = {(Tool, "parameters"), (JsonSchema, "schema")}
_FIXED = {
    (Message, "role"),
    (GenerationRequest, "tool_choice"),
    (Sampling, "logit_bias"),
}
"""Texts from a fixed list, and numbers."""
_VALUE_KEYS = frozenset({"default", "const", "examples", "enum", "items", "anyOf", "oneOf"})
"""Keywords of a schema that hold values of the property that they describe."""
_STRUCTURAL_KEYS = frozenset({"type", "$ref", "$schema", "$id", "format"})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of *pairs*. Raises ValueError where a name comes twice, for its first value would
    not be looked at."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


class Texts:
    """Walks a request, all its fields: *change* replaces each text, but *check* gets the names that
    cannot be changed. *change* also takes the name that the text has in JSON, or "". *moved* says
    where a place in a text is when that is changed."""

    def __init__(
        self,
        change: Callable[[str, str], str],
        check: Callable[[str], None],
        moved: Callable[[str, int], int] = lambda _text, place: place,
    ) -> None:
        self._change = change
        self._check = check
        self._moved = moved

    def request(self, request: GenerationRequest) -> GenerationRequest:
        if isinstance(request.prompt, tuple):
            raise RedactionFailed("a prompt of token ids cannot be redacted: send its text")
        return self._struct(request)

    def _struct(self, struct: S) -> S:
        kind = type(struct)
        changed = {
            name: self._field((kind, name), getattr(struct, name))
            for name in struct.__struct_fields__
        }
        if isinstance(struct, Message) and struct.images:
            changed["images"] = tuple(
                replace(image, at=self._moved(struct.content, image.at)) for image in struct.images
            )
        return replace(struct, **changed)

    def _field(self, field: tuple[type, str], value: Any) -> Any:
        if field == (Message, "images"):
            return value  # nobody can look into them
        if isinstance(value, Struct):
            return self._struct(value)
        if isinstance(value, tuple):
            return tuple(self._field(field, one) for one in value)
        if field in _FIXED:
            return value
        if field in _NAMES and value is not None:
            self._check(value)
            return value
        if field in _SCHEMAS:
            return self._schema(value)
        if field == (ToolCall, "arguments"):
            return self._arguments(value)
        if isinstance(value, str):
            return self._change(value, "")
        return self._values(value) if isinstance(value, dict) else value

    def _arguments(self, arguments: str) -> str:
        """JSON with its values changed, also numbers, which become strings; the same text if
        nothing is changed."""
        try:
            value = json.loads(arguments, object_pairs_hook=_once)
        except ValueError:
            return self._change(arguments, "")
        changed = self._values(value)
        return arguments if changed == value else json.dumps(changed, ensure_ascii=False)

    def _schema(self, value: Any, name: str = "") -> Any:
        """A JSON schema: names of properties and the schema's keywords stay as they are."""
        if isinstance(value, str):
            return self._change(value, name)
        if isinstance(value, list | tuple):
            return [self._schema(one, name) for one in value]
        if not isinstance(value, dict):
            return value
        changed = {}
        for key, one in value.items():
            self._check(str(key))
            if key in _STRUCTURAL_KEYS and isinstance(one, str):
                self._check(one)
                changed[key] = one
            else:
                changed[key] = self._schema(one, name if key in _VALUE_KEYS else str(key))
        return changed

    def _values(self, value: Any, name: str = "") -> Any:
        """Any JSON: keys and numbers count as texts."""
        if isinstance(value, str):
            return self._change(value, name)
        if isinstance(value, dict):
            return {self._change(key, ""): self._values(one, key) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._values(one, name) for one in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            changed = self._change(text := json.dumps(value), name)
            return value if changed == text else changed
        return value
