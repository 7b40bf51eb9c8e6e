"""How many members an object may have. llguidance counts only where all described members are
required; elsewhere the ways to reach a count are spelled out, if they are few."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from msgspec import Struct

from spillover.runtime.structured_output.subschemas import Schema

MAX_WAYS = 64
"""Ways to reach the counts of one object that are spelled out."""


class _Counts(Struct, frozen=True):
    """The counts of a schema, and the members that they are about."""

    least: int
    most: int | None
    required: tuple[str, ...]
    optional: tuple[str, ...]
    """Members that are described and not required."""
    is_closed: bool
    """Whether there may be no others."""

    @classmethod
    def of(cls, schema: Schema) -> _Counts | None:
        """None without counts, and for keywords of the wrong type, of which llguidance says what is
        wrong."""
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        required, declared = schema.get("required", []), schema.get("properties", {})
        if not (least or most is not None) or type(least) is not int:
            return None
        if not (most is None or type(most) is int):
            return None
        if not isinstance(required, list) or not isinstance(declared, dict):
            return None
        names = dict.fromkeys(name for name in required if isinstance(name, str))
        is_closed = schema.get("additionalProperties") is False
        return cls(
            least=least,
            most=most,
            required=tuple(names),
            optional=tuple(
                n for n, inner in declared.items() if inner is not False and n not in names
            ),
            is_closed=is_closed
            and not schema.get("patternProperties")
            and names.keys() <= declared.keys(),
        )

    @property
    def n_required(self) -> int:
        return len(self.required)

    @property
    def n_possible(self) -> int | None:
        """Of members in all; None where others than the described ones are allowed."""
        return self.n_required + len(self.optional) if self.is_closed else None

    @property
    def is_plain(self) -> bool:
        """Whether llguidance can count by itself."""
        is_one = self.least + (self.most or 0) == 1 and self.n_required == 0
        return not self.optional or (self.is_closed and is_one)


def with_counts(schema: Schema) -> Schema:
    """*schema* with counts of members that llguidance can hold an answer to, where that can be."""
    counts = _Counts.of(schema)
    if counts is None:
        return schema
    least, most, possible = counts.least, counts.most, counts.n_possible
    if least <= counts.n_required:
        schema = _without(schema, "minProperties")
    elif least == possible:
        required = [name for name, inner in schema["properties"].items() if inner is not False]
        schema = {**_without(schema, "minProperties"), "required": required}
    if most is not None and possible is not None and most >= possible:
        schema = _without(schema, "maxProperties")
    counts = _Counts.of(schema)
    if counts is None or counts.is_plain or "patternProperties" in schema:
        return schema
    ways = list(itertools.islice(_ways(counts), MAX_WAYS + 1))
    if not 0 < len(ways) <= MAX_WAYS:
        return schema
    others = schema.get("allOf", [])
    if not isinstance(others, list):
        return schema
    return {
        **_without(schema, "minProperties", "maxProperties"),
        "allOf": [*others, {"anyOf": ways}],
    }


def has_too_many_ways(schema: Schema) -> bool:
    """Whether with_counts() has left counts because there are too many ways to reach them."""
    counts = _Counts.of(schema)
    if counts is None or counts.is_plain or "patternProperties" in schema:
        return False
    return len(list(itertools.islice(_ways(counts), MAX_WAYS + 1))) > MAX_WAYS


def counts_repeated_names(schema: Schema) -> bool:
    """Whether a name that comes twice would count twice. It is one member of the parsed value, and
    no grammar can keep it from coming again."""
    counts = _Counts.of(schema)
    if counts is None or counts.is_closed:
        return False
    return counts.least > counts.n_required + 1


def _ways(counts: _Counts) -> Iterator[Schema]:
    """What an object with the right number of members looks like: each such object fits one of
    these schemas. Of members that are not described only one is relied on, because their names may
    come twice."""
    least = max(counts.least - counts.n_required, 0)
    if counts.most is not None and counts.most < counts.n_required + least:
        return
    if counts.is_closed or counts.most is None:
        yield from _by_first_members(counts, least)
    if counts.is_closed:
        return
    most = least - 1 if counts.most is None else counts.most - counts.n_required
    for n in range(max(least - 1, 0), min(most, len(counts.optional)) + 1):
        for present in itertools.combinations(counts.optional, n):
            way = _members((*counts.required, *present), _without_names(counts.optional, present))
            if n < least:
                way["minProperties"] = counts.least
            if counts.most is not None:
                way["maxProperties"] = counts.most
            yield way


def _by_first_members(counts: _Counts, least: int) -> Iterator[Schema]:
    """A way for each choice of the first *least* members; of the later ones all may be there, or
    as many as the limit allows."""
    optional = counts.optional
    for places in itertools.combinations(range(len(optional)), least):
        first = [optional[place] for place in places]
        last = places[-1] + 1 if places else 0
        absent = _without_names(optional[:last], first)
        later = optional[last:]
        n_later = len(later)
        if counts.most is not None:
            n_later = min(n_later, counts.most - counts.n_required - least)
        for allowed in itertools.combinations(later, n_later):
            yield _members(
                (*counts.required, *first),
                (*absent, *_without_names(later, allowed)),
            )


def _without_names(names: Iterable[str], others: Iterable[str]) -> list[str]:
    left_out = frozenset(others)
    return [name for name in names if name not in left_out]


def _members(present: Iterable[str], absent: Iterable[str]) -> Schema:
    return {"required": list(present), "properties": dict.fromkeys(absent, False)}


def _without(schema: Schema, *keywords: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in keywords}
