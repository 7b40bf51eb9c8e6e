"""Tries out a layer's attention on made-up numbers, to learn its scale and window and to check that
it is plain causal attention and nothing else.

Only the nodes of the attention are run, by onnx's reference implementation: no weights are read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from onnx import ModelProto, TypeProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator

from spillover.runtime.onnx.graph.ancestry import Ancestry, TooMuch
from spillover.runtime.onnx.graph.islands import Island
from spillover.runtime.onnx.graph.layout import GraphInputs

Array = npt.NDArray[Any]

_CASES = ((0, 5), (1, 1), (7, 1), (6, 4))
"""Numbers of past and of new positions."""
_LONGEST_WINDOW_CHECKED = 8192
"""Beyond this, a window is read from the mask alone, not tried with keys and values."""
_TOLERANCE = {"float32": 2e-5, "float16": 4e-3}
_HIDDEN_BELOW = -1000.0
"""What is added to scores that must not count: -inf, the smallest number, -1e4 …"""


class PlainAttention(Struct, frozen=True, kw_only=True):
    """The parameters in which plain causal attention may differ."""

    scale: float
    window: int | None


class NotPlainAttention(Exception):
    """The nodes compute something else, or cannot run alone."""


class AttentionTrial:
    """The nodes of one island, ready to run. Raises NotPlainAttention."""

    def __init__(self, proto: ModelProto, island: Island, inputs: GraphInputs) -> None:
        if island.dtype not in _TOLERANCE:
            raise NotPlainAttention(f"the KV cache holds {island.dtype}")
        self._proto = proto
        self._island = island
        self._inputs = inputs
        self._dtype = np.dtype(island.dtype)
        self._ends = {island.query, island.new_key, island.new_value}
        self._ends |= {value.name for value in proto.graph.input}
        self._context = self._ancestry(island.context)
        self._evaluator = self._evaluator_of(self._context, island.context)

    def signature(self) -> str:
        """A key that is equal for islands that differ in their names alone."""
        fields = ("query", "new_key", "new_value", "past_key", "past_value")
        return self._context.signature({getattr(self._island, name): name for name in fields})

    def attention(self, n_ctx: int) -> PlainAttention:
        """The scale, and the window up to *n_ctx*, with which the nodes are plain causal attention.

        Raises NotPlainAttention when there are none.
        """
        found = PlainAttention(scale=self._scale(), window=self._window(n_ctx))
        cases = list(_CASES)
        if found.window is not None and found.window <= _LONGEST_WINDOW_CHECKED:
            cases.append((found.window + 3, 3))
        for number, (n_past, n_new) in enumerate(cases):
            self._check(found, n_past, n_new, seed=number)
        return found

    def _check(self, attention: PlainAttention, n_past: int, n_new: int, *, seed: int) -> None:
        query, key, value = self._draw(n_past, n_new, seed=seed)
        found = self._result(query, key, value)
        wanted = _causal_attention(query, key, value, attention)
        tolerance = _TOLERANCE[self._dtype.name]
        if found.shape != wanted.shape or not np.allclose(found, wanted, atol=tolerance):
            raise NotPlainAttention("it gives other results")

    def _scale(self) -> float:
        """Try two keys, one like the query and one zero: their shares reveal the scale."""
        island, size = self._island, self._island.n_per_head
        scales = []
        for strength in (1.0, 3.0):
            query = np.zeros((1, island.n_head, 1, size))
            key = np.zeros((1, island.n_head_kv, 2, size))
            value = np.zeros((1, island.n_head_kv, 2, size))
            query[..., 0] = strength
            key[:, :, 0, 0] = 1
            value[:, :, 0] = 1
            share = float(self._result(query, key, value).mean())
            if not 0 < share < 1:
                raise NotPlainAttention("its scores cannot be read")
            scales.append(math.log(share / (1 - share)) / strength)
        if not math.isclose(scales[0], scales[1], rel_tol=1e-2):
            raise NotPlainAttention("its scores are capped")
        exact = self._island.n_per_head**-0.5
        return exact if math.isclose(scales[0], exact, rel_tol=1e-2) else scales[0]

    def _window(self, n_ctx: int) -> int | None:
        """The window that the mask gives the last of *n_ctx* positions."""
        if not self._island.masks:
            return None
        if len(self._island.masks) > 1:
            raise NotPlainAttention(f"it has {len(self._island.masks)} masks")
        (name,) = self._island.masks
        ancestry = self._ancestry(name)
        none = np.broadcast_to(self._dtype.type(0), (1, 1, n_ctx, 1))
        mask = self._run(ancestry, self._evaluator_of(ancestry, name), none, none, none, 1)
        visible = mask if mask.dtype == np.bool_ else mask > _HIDDEN_BELOW
        row = visible.reshape(-1, visible.shape[-1])
        n_seen = int(row[0].sum())
        banded = np.arange(row.shape[1]) >= row.shape[1] - n_seen
        if row.shape[1] != n_ctx or n_seen == 0 or not (row == banded).all():
            raise NotPlainAttention("what it sees is not a window of the last positions")
        return None if n_seen == n_ctx else n_seen

    def _draw(self, n_past: int, n_new: int, *, seed: int) -> tuple[Array, Array, Array]:
        island, random = self._island, np.random.default_rng(seed)
        shape = (1, island.n_head_kv, n_past + n_new, island.n_per_head)
        query = random.standard_normal((1, island.n_head, n_new, island.n_per_head))
        drawn = query, random.standard_normal(shape), random.standard_normal(shape)
        rounded = [array.astype(self._dtype).astype(np.float64) for array in drawn]
        return rounded[0], rounded[1], rounded[2]

    def _result(self, query: Array, key: Array, value: Array) -> Array:
        """(1, new positions, heads · size)"""
        n_new = query.shape[2]
        found = self._run(self._context, self._evaluator, query, key, value, n_new)
        return found.reshape(1, n_new, -1)

    def _run(
        self,
        ancestry: Ancestry,
        evaluator: ReferenceEvaluator,
        query: Array,
        key: Array,
        value: Array,
        n_new: int,
    ) -> Array:
        given = self._arrays(query, key, value, n_new)
        width = self._island.n_head * self._island.n_per_head
        shape_alone = np.broadcast_to(self._dtype.type(0), (1, n_new, width))
        feeds = {}
        for name in ancestry.feeds():
            # The only other value it can need is another layer's cache, for its length.
            otherwise = shape_alone if name in ancestry.measured else given[self._island.past_key]
            feeds[name] = given.get(name, otherwise)
        try:
            results: Any = evaluator.run(None, feeds)
        except Exception as error:  # any error of nodes that are run outside their graph
            raise NotPlainAttention(repr(error)) from error
        return np.asarray(results[0])

    def _arrays(self, query: Array, key: Array, value: Array, n_new: int) -> dict[str, Array]:
        island, inputs = self._island, self._inputs
        n_all = key.shape[2]
        n_past = n_all - n_new
        floats = {
            island.query: query,
            island.new_key: key[:, :, n_past:],
            island.new_value: value[:, :, n_past:],
            island.past_key: key[:, :, :n_past],
            island.past_value: value[:, :, :n_past],
        }
        arrays: dict[str, Array] = {
            name: array.astype(self._dtype, copy=False) for name, array in floats.items()
        }
        arrays[inputs.ids] = np.zeros((1, n_new), np.int64)
        if inputs.mask is not None:
            arrays[inputs.mask] = np.ones((1, n_all), np.int64)
        if inputs.positions is not None:
            arrays[inputs.positions] = np.arange(n_past, n_all)[None]
        return arrays

    def _ancestry(self, value: str) -> Ancestry:
        try:
            return Ancestry(self._proto, value, self._ends)
        except TooMuch as error:
            raise NotPlainAttention("it depends on weights, or on too many nodes") from error

    def _evaluator_of(self, ancestry: Ancestry, value: str) -> ReferenceEvaluator:
        graph = helper.make_graph(
            ancestry.nodes,
            "attention",
            [_untyped(name) for name in ancestry.feeds()],
            [_untyped(value)],
            initializer=ancestry.constants,
        )
        model = helper.make_model(graph, opset_imports=list(self._proto.opset_import))
        try:
            return ReferenceEvaluator(model)
        except Exception as error:  # any error about operators that it does not know
            raise NotPlainAttention(repr(error)) from error


def _untyped(name: str) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=TypeProto())


def _causal_attention(query: Array, key: Array, value: Array, attention: PlainAttention) -> Array:
    """(1, heads, new, size) by (1, shared heads, all, size) → (1, new, heads · size)."""
    n_group = query.shape[1] // key.shape[1]
    keys, values = (np.repeat(shared, n_group, axis=1) for shared in (key, value))
    n_new, n_all = query.shape[2], key.shape[2]
    scores = query @ keys.swapaxes(-1, -2) * attention.scale
    distance = np.arange(n_all - n_new, n_all)[:, None] - np.arange(n_all)
    hidden = distance < 0
    if attention.window is not None:
        hidden |= distance >= attention.window
    scores = np.where(hidden, -np.inf, scores)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed: Array = shares @ values
    return mixed.swapaxes(1, 2).reshape(1, n_new, -1)
