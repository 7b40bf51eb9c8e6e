"""Branches of oneOf that exclude each other, said in a way in which llguidance can see it."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from spillover.runtime.structured_output.subschemas import Schema
from spillover.runtime.tools.typed_values import resolved

Branches: TypeAlias = list[Schema]

MAX_BRANCHES = 64
"""Of which each requires a member: each then forbids the members of all others."""

_encode = msgspec.json.Encoder().encode


def with_exclusive_branches(schema: Schema, root: Schema) -> Schema:
    """*schema* with branches of which each asks for what tells it from the others: a member that is
    another constant in each, or the one member that each requires. What then follows a branch
    follows no other."""
    branches = schema.get("oneOf")
    if not isinstance(branches, list) or len(branches) < 2:
        return schema
    if not all(isinstance(branch, dict) for branch in branches):
        return schema
    told = _by_required(branches) or _by_constant(branches, root)
    return schema if told is None else {**schema, "oneOf": told}


def _by_constant(branches: Branches, root: Schema) -> Branches | None:
    targets = [resolved(branch, root) for branch in branches]
    constants = [_constants(target) for target in targets]
    for name in constants[0]:
        if not all(name in one for one in constants):
            continue
        values = [value for one in constants for value in one[name]]
        if len(values) == len(set(values)):
            return [
                _asking_for(branch, name, target)
                for branch, target in zip(branches, targets, strict=True)
            ]
    return None


def _constants(schema: Schema) -> dict[str, tuple[bytes, ...]]:
    """The members of *schema* that are one of a few constants: their values as JSON."""
    members = schema.get("properties")
    found = {}
    for name, inner in members.items() if isinstance(members, dict) else ():
        if isinstance(inner, dict):
            values = [inner["const"]] if "const" in inner else inner.get("enum")
            if isinstance(values, list) and all(isinstance(v, str | bool | int) for v in values):
                found[name] = tuple(set(map(_encode, values)))
    return found


def _asking_for(branch: Schema, name: str, target: Schema) -> Schema:
    required = branch.get("required", target.get("required", []))
    if not isinstance(required, list) or name in required:
        return branch
    asking = {**branch, "required": [*required, name]}
    if "type" not in target:
        asking["type"] = "object"
    return asking


def _by_required(branches: Branches) -> Branches | None:
    """For branches that only require one member each."""
    if len(branches) > MAX_BRANCHES:
        return None
    names = [_only_required(branch) for branch in branches]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    return [
        {
            "type": "object",
            "required": [name],
            "properties": {other: False for other in names if other != name},
        }
        for name in names
    ]


def _only_required(branch: Schema) -> Any:
    keywords = branch.keys() - {"title", "description", "$comment"}
    required = branch.get("required")
    is_one = keywords == {"required"} and isinstance(required, list) and len(required) == 1
    return required[0] if is_one and required else None
