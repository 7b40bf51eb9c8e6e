"""What rendering a template may cost, told from its source, where that is certain."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from msgspec import Struct

from spillover.runtime.chat.sandbox import TemplateSandbox

_PLAIN = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Neg, nodes.CondExpr, nodes.Add, nodes.Concat, nodes.Filter, nodes.Call,
    nodes.Test, nodes.Assign, nodes.Mod,
)  # fmt: skip
"""All that a template may hold whose cost is told."""

MAX_PLAIN_CHARS = 1 << 13
"""A longer template is not even parsed here, which can take seconds too."""

_FILTERS = frozenset({"trim", "length", "default", "upper", "lower"})
_TESTS = frozenset(
    {"defined", "undefined", "none", "string", "mapping", "true", "false", "equalto"}
)
_METHODS = frozenset({"strip", "lstrip", "rstrip", "startswith", "endswith", "upper", "lower"})
_NEAR = frozenset({"first", "last", "index", "index0", "revindex", "revindex0", "length"})
_MOST_ESCAPED = 4
"""Bytes for one of a text's when it is printed as a part of a list."""
_GROWING: tuple[type[nodes.Node], ...] = (nodes.Add, nodes.Concat, nodes.Call)


class TemplateCost(Struct, frozen=True, kw_only=True):
    """The cost of a template that walks through the messages once, one after the other, and whose
    operations make nothing longer than their operands together."""

    n_nodes: int
    n_sums: int
    n_chars: int
    sees_all: bool
    """In each message's turn it may look at all the others."""

    def of(self, values: dict[str, Any]) -> int:
        """At most so many characters are copied for *values*."""
        messages = values["messages"]
        inside = _n_chars(messages)
        beside = self.n_chars + _n_chars(values) - inside
        per_turn = beside + inside if self.sees_all else beside
        return self.n_nodes * (self.n_sums + 1) * (inside + (len(messages) + 1) * per_turn)


def _n_chars(value: Any) -> int:
    """At most so many characters print *value*."""
    if isinstance(value, str):
        return _MOST_ESCAPED * len(value) + 4
    if isinstance(value, dict):
        return sum(_n_chars(name) + _n_chars(part) for name, part in value.items()) + 4
    if isinstance(value, list | tuple):
        return sum(map(_n_chars, value)) + 4
    return value.bit_length() + 4 if isinstance(value, int) else 32


def cost_of(source: str) -> TemplateCost | None:
    """None: the template may cost anything. Raises jinja2.TemplateError or RecursionError if it is
    parsed and cannot be."""
    if len(source) > MAX_PLAIN_CHARS:
        return None
    tree = TemplateSandbox().parse(source)
    all_nodes = [tree, *tree.find_all(nodes.Node)]
    lists = _lists(tree)
    if not all(isinstance(node, _PLAIN) and _is_cheap(node, lists) for node in all_nodes):
        return None
    iterated = {id(loop.iter) for loop in tree.find_all(nodes.For)}
    used = [node for node in tree.find_all(nodes.Name) if node.name in lists]
    return TemplateCost(
        n_nodes=len(all_nodes),
        n_sums=sum(isinstance(node, nodes.Add | nodes.Concat) for node in all_nodes),
        n_chars=len(source),
        sees_all=any(id(node) not in iterated for node in used),
    )


def _lists(tree: nodes.Template) -> set[str]:
    """The names of the messages, or of a part of them."""
    names = {"messages"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_list(assign.node, names):
            names.add(assign.target.name)
    return names


def _is_list(node: nodes.Node, names: set[str]) -> bool:
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _is_list(node.node, names)
    return isinstance(node, nodes.Name) and node.name in names


def _is_cheap(node: nodes.Node, lists: set[str]) -> bool:
    match node:
        case nodes.For():
            is_nested = node.find(nodes.For) is not None or node.recursive
            is_one = isinstance(node.target, nodes.Name) and node.target.name not in lists
            return is_one and not is_nested and _is_list(node.iter, lists)
        case nodes.Assign():
            # What is assigned is no longer than what was there.
            grows = isinstance(node.node, _GROWING) or any(
                node.node.find(kind) is not None for kind in _GROWING
            )
            return isinstance(node.target, nodes.Name) and not grows
        case nodes.Filter():
            return node.name in _FILTERS and node.node is not None
        case nodes.Test():
            return node.name in _TESTS
        case nodes.Call():
            return _is_cheap_call(node)
        case nodes.Getattr() if isinstance(node.node, nodes.Name) and node.node.name == "loop":
            return node.attr in _NEAR
    return True


def _is_cheap_call(call: nodes.Call) -> bool:
    if call.dyn_args is not None or call.dyn_kwargs is not None:
        return False
    if isinstance(call.node, nodes.Getattr):
        return call.node.attr in _METHODS
    return isinstance(call.node, nodes.Name) and call.node.name == "raise_exception"
