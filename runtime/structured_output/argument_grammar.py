"""Grammars for calls whose arguments are written as tags or literals, each by its own schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from spillover.runtime.structured_output.grammar import JSON_STYLE
from spillover.runtime.structured_output.subschemas import Schema, walk
from spillover.runtime.tools.tool_format import ITEM, ToolFormat
from spillover.runtime.tools.typed_values import (
    any_of,
    followed,
    is_text,
    kinds_of,
    part_of,
    resolved,
)

Spell = Callable[[str], str]
"""How a marker stands in a grammar: a text, or the numbers of its tokens."""

_MAX_LENGTH = 2000
"""Longer texts are not counted."""

_SHARED = ("$defs", "definitions")
_MAX_SHARED = 1 << 20
"""Characters of the values of one call that bring all definitions with them; further ones are
free."""
_KEY = '/[^<>"=:(){}\\[\\],\\s]{1,128}/'
_ELEMENT_KEY = '/[^<>"=:(){}\\[\\],\\s\\/][^<>"=:(){}\\[\\],\\s]{0,127}/'
_BREAK = '"\\n"?'


def marked(text: str, spell: Spell) -> str:
    """A mark; the line breaks around it are optional."""
    before = f"{_BREAK} " if text.startswith("\n") else ""
    behind = f" {_BREAK}" if text.endswith("\n") else ""
    core = text.strip("\n")
    if not core:
        return _BREAK if text else ""
    return f"{before}{spell(core)}{behind}"


def json_rule(schema: Schema) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": JSON_STYLE})


class ArgumentRules:
    """The rules for the arguments of one call; their names begin with *prefix*."""

    def __init__(self, format: ToolFormat, parameters: Schema, spell: Spell, prefix: str) -> None:
        self._format = format
        self._root = parameters
        self._spell = spell
        self._prefix = prefix
        self.rules: list[str] = []
        self._nested: dict[int, str] = {}
        """The rules of schemas that may contain themselves."""
        self._n_shared = 0

    def add(self, expression: str, *, attributes: str = "") -> str:
        name = f"{self._prefix}x{len(self.rules)}"
        self.rules.append(f"{name}{attributes}: {expression}")
        return name

    def start(self) -> str:
        """The rule of all arguments, in the order of the schema."""
        schema = resolved(self._root, self._root)
        if self._names_members(schema):
            return self._members(schema)
        if schema.get("additionalProperties") is False:
            return ""
        return f"{self._several(self._one(self._any_key, {}))}?"

    def _names_members(self, schema: Schema) -> bool:
        properties = schema.get("properties")
        return isinstance(properties, dict) and bool(properties)

    def _members(self, schema: Schema) -> str:
        """The members that *schema* names, in its order."""
        properties, required = schema["properties"], schema.get("required", ())
        steps = [
            (self._one(json.dumps(key), sub if isinstance(sub, dict) else {}), key in required)
            for key, sub in properties.items()
        ]
        return self._in_order(steps)

    def _in_order(self, steps: list[tuple[str, bool]]) -> str:
        """One after the other; those that are not required may be left out."""
        comma = self._comma
        first = later = ""
        for step, is_required in reversed(steps):
            n_later = self.add(
                f"{comma} {step} {later}" if is_required else f"({comma} {step})? {later}"
            )
            begun = f"{step} {later}"
            other = f"{begun} | {first}" if first else f"({begun})?"
            first = self.add(begun if is_required else other)
            later = n_later
        return first

    @property
    def _is_wrapped(self) -> bool:
        """Whether values stand on lines of their own."""
        return self._format.value_closing.startswith("\n")

    @property
    def _comma(self) -> str:
        return '"," " "?' if self._format.encoding == "literals" else ""

    def _several(self, one: str) -> str:
        return f"({one} ({self._comma} {one})*)"

    def _one(self, key: str, schema: Schema) -> str:
        """A key and its value."""
        format, spell = self._format, self._spell
        kinds = kinds_of(schema, self._root)
        if format.encoding == "literals":
            return self.add(f"{key} {spell(format.key_closing)} {self._literal(schema, kinds)}")
        if format.encoding == "elements":
            opened = f"{spell(format.key_opening)} {key} {spell(format.key_closing)}"
            return self.add(f"{opened} {self._element(schema)} {key} {spell(format.key_closing)}")
        head = f"{marked(format.key_opening, spell)} {key} {marked(format.key_closing, spell)}"
        opening = marked(format.value_opening, spell) if format.value_opening.strip() else ""
        text = f"{opening} {self._text(schema)}"
        edge = _BREAK if self._is_wrapped else ""
        value = f"{opening} {edge} {self._json(schema)} {marked(format.value_closing, spell)}"
        if format.text_mark:
            text = f"{json.dumps(format.text_mark)} {text}"
            value = f"/{format.other_marks}/ {value}"
        if is_text(kinds):
            return self.add(f"{head} {text}")
        if kinds and "string" not in kinds:
            return self.add(f"{head} {value}")
        return self.add(f"{head} ({text} | {value})" if format.text_mark else f"{head} {text}")

    def _text(self, schema: Schema) -> str:
        """A value that is no JSON, with its closing tag."""
        format, spell, schema = self._format, self._spell, followed(schema, self._root)
        close = marked(format.value_closing, spell)
        if choices := _choices(schema, only_texts=bool(format.text_mark)):
            texts = " | ".join(map(json.dumps, choices))
            before = _BREAK if self._is_wrapped else ""
            return f"{before} ({texts}) {close}"
        if format.text_opening:
            plain = f"/[^<&\\n]{_repeats(schema)}/"
            quoted = self._until(format.text_closing, schema)
            return f"({plain} | {spell(format.text_opening)} {quoted}) {close}"
        behind = f" {_BREAK}" if format.value_closing.endswith("\n") else ""
        return self._until(self._format.value_closing.strip(), schema) + behind

    def _until(self, mark: str, schema: Schema, *, other_than: str = "") -> str:
        """A text, and *mark*. *other_than*: a character that the text does not begin with."""
        pattern = f"(?s:.{_repeats(schema)})"
        if other_than:
            pattern = f"(?s:([^{re.escape(other_than)}].*)?)"
        wrap = "\\n?" if self._is_wrapped else ""
        spelled = self._spell(mark)
        if spelled != json.dumps(mark):  # its tokens are no part of any text
            return f"/{wrap}{pattern}{wrap}/ {spelled}"
        closing = re.escape(mark).replace("/", "\\/")
        return self.add(f"/{wrap}{pattern}{wrap}{closing}/", attributes="[lazy]")

    def _json(self, schema: Schema) -> str:
        """*schema* by itself, if it can be said without what surrounds it."""
        names = [inner["$ref"] for _, inner in walk(schema) if isinstance(inner.get("$ref"), str)]
        if not all(name.startswith(tuple(f"#/{shared}/" for shared in _SHARED)) for name in names):
            return json_rule({})
        shared = {name: value for name, value in self._root.items() if name in _SHARED and names}
        rule = json_rule({**shared, **schema})
        self._n_shared += len(rule) if names else 0
        return rule if self._n_shared <= _MAX_SHARED else json_rule({})

    # --- elements ---------------------------------------------------------------------------

    @property
    def _any_key(self) -> str:
        return _ELEMENT_KEY if self._format.encoding == "elements" else _KEY

    def _element(self, schema: Schema) -> str:
        """What stands in an element, and the mark that closes it."""
        schema = resolved(schema, self._root)
        kinds, close = kinds_of(schema, self._root), self._spell(self._format.value_closing)
        if is_text(kinds):
            return self._text(schema)
        if kinds == {"array"} or (kinds == {"object"} and self._names_members(schema)):
            return self._of_elements(schema, close)
        if kinds and not kinds & {"string", "array", "object"}:
            return f"{self._json(schema)} {close}"
        return self._free_element(close)

    def _of_elements(self, schema: Schema, close: str) -> str:
        if id(schema) not in self._nested:
            name = self._nested[id(schema)] = f"{self._prefix}e{len(self._nested)}"
            items = part_of(schema, self._root, ITEM)
            is_list = not self._names_members(schema)
            n_items = _repeats(schema, "minItems", "maxItems")
            item = self._one(json.dumps(ITEM), items) if is_list else ""
            inside = f"{item}{n_items}" if is_list else self._members(schema)
            self.rules.append(f"{name}: {inside} {close}")
        return self._nested[id(schema)]

    def _free_element(self, close: str) -> str:
        """Any text or elements."""
        name = f"{self._prefix}free"
        if not any(rule.startswith(f"{name}:") for rule in self.rules):
            self.rules.append("")
            at, opening = len(self.rules) - 1, self._format.key_opening
            # No lexer could tell elements from a text that begins like one.
            text = self._until(self._format.value_closing, {}, other_than=opening[0])
            one = " ".join(
                (
                    self._spell(opening),
                    f"{_ELEMENT_KEY} {self._spell(self._format.key_closing)}",
                    f"{name} {_ELEMENT_KEY} {self._spell(self._format.key_closing)}",
                )
            )
            self.rules[at] = f"{name}: {text} | ({one})+ {close}"
        return name

    # --- literals ---------------------------------------------------------------------------

    def _literal(self, schema: Schema, kinds: frozenset[str]) -> str:
        if is_text(kinds):
            return self._quoted(schema)
        if not self._own_quote and kinds == {"boolean"}:
            return '("True" | "False" | "true" | "false")'
        if not self._own_quote or (kinds and not kinds & {"string", "array", "object"}):
            return self._json(schema)
        schema = followed(schema, self._root)
        has_shape = kinds == {"array"} or (kinds == {"object"} and self._names_members(schema))
        return self._shaped(schema) if has_shape or any_of(schema) else self._free()

    def _shaped(self, schema: Schema) -> str:
        """A list, an object or alternatives with the format's own quotes."""
        if id(schema) not in self._nested:
            name = self._nested[id(schema)] = f"{self._prefix}e{len(self._nested)}"
            if branches := any_of(schema):
                shape = " | ".join(self._literal(b, kinds_of(b, self._root)) for b in branches)
            elif self._names_members(schema):
                shape = f'"{{" {self._members(schema)} "}}"'
            else:
                items = part_of(schema, self._root, ITEM)
                item = self._literal(items, kinds_of(items, self._root))
                or_none = "" if schema.get("minItems") else "?"
                shape = f'"[" ({item} ({self._comma} {item})*){or_none} "]"'
            self.rules.append(f"{name}: {shape}")
        return self._nested[id(schema)]

    @property
    def _own_quote(self) -> str:
        """A quote that is not JSON's."""
        quote = self._format.quotes[0]
        return "" if quote == '"' else quote

    def _quoted(self, schema: Schema) -> str:
        own, schema = self._own_quote, followed(schema, self._root)
        if not own:
            single = "/'([^'\\\\\\n]|\\\\['\"\\\\nt])*'/"
            is_plain = not schema.keys() - {"type", "description", "title", "default"}
            text = self._json(schema)
            return f"({text} | {single})" if is_plain else text
        if choices := _choices(schema):
            texts = " | ".join(map(json.dumps, choices))
            return f"{self._spell(own)} ({texts}) {self._spell(own)}"
        return f"{self._spell(own)} {self._until(own, schema)}"

    def _free(self) -> str:
        """Any literal with the format's own quotes."""
        name = f"{self._prefix}free"
        if not any(rule.startswith(f"{name}:") for rule in self.rules):
            self.rules.append("")
            at = len(self.rules) - 1
            number = json_rule({"type": ["number", "boolean", "null"]})
            inner = f'{_KEY} ":" {name}'
            self.rules[at] = (
                f"{name}: {self._quoted({})} | {number}"
                f' | "[" ({name} ("," {name})*)? "]" | "{{" ({inner} ("," {inner})*)? "}}"'
            )
        return name


def _choices(schema: Schema, *, only_texts: bool = False) -> list[str]:
    """The texts that a value may be; empty: others, too."""
    choices: Any = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if not isinstance(choices, list) or any(isinstance(one, list | dict) for one in choices):
        return []
    if only_texts:
        choices = [choice for choice in choices if isinstance(choice, str)]
    return [choice if isinstance(choice, str) else json.dumps(choice) for choice in choices]


def _repeats(schema: Schema, least_name: str = "minLength", most_name: str = "maxLength") -> str:
    least, most = schema.get(least_name, 0), schema.get(most_name)
    if not isinstance(least, int) or not 0 <= least <= _MAX_LENGTH:
        least = 0
    if isinstance(most, int) and least <= most <= _MAX_LENGTH:
        return f"{{{least},{most}}}"
    return f"{{{least},}}" if least else "*"
