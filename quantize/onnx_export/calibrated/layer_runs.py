"""Runs a decoder layer by layer over a calibration text, so that one layer is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct

from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.calibrated.tokens import (
    TokenIds,
    affordable_chunks,
    chunks_of,
)
from spillover.quantize.onnx_export.graph.decoder import STAGES, Decoder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import EMBEDDING, WeightSource
from spillover.quantize.onnx_export.spec import ModelSpec
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.session import session_options


class State(Struct, frozen=True, kw_only=True):
    """What one chunk of the text has become, (tokens, values) each."""

    x: Floats
    """The input of the next products."""
    residual: Floats

    def beginning(self, n_tokens: int) -> State:
        """Of the first tokens, which do not depend on those behind them."""
        return State(x=self.x[:n_tokens], residual=self.residual[:n_tokens])


def state_bytes(spec: ModelSpec) -> int:
    """What one token takes in a State, where it is largest."""
    widest = max(spec.n_hidden, spec.n_inner, spec.n_head * spec.n_per_head)
    return 4 * (widest + spec.n_hidden)


def held_bytes(spec: ModelSpec) -> int:
    """What one token takes in a State between pairs of stages, where it is smallest."""
    return 2 * residual_bytes(spec)


def residual_bytes(spec: ModelSpec) -> int:
    """What one token takes in a residual sum."""
    return 4 * spec.n_hidden


_FEW_CHUNKS = 4
_N_STATES = len(STAGES) + 2
"""States of each token while the matrices of a layer are compared: before each stage, at the end,
and there once more with one matrix rounded."""


def few_chunks(spec: ModelSpec, tokens: TokenIds, n_ctx: int) -> list[TokenIds]:
    """Chunks to compare the matrices of layers by, whose order hardly changes with more; fewer
    where memory is short."""
    n_affordable = affordable_chunks(_N_STATES * state_bytes(spec))
    return chunks_of(tokens, n_ctx, min(n_affordable, _FEW_CHUNKS))


class LayerRuns:
    """Stages of layers (decoder.STAGES) as graphs of their own. *n_ctx* is that of the whole
    graph."""

    def __init__(self, source: WeightSource, options: ExportOptions, n_ctx: int) -> None:
        self._source = source
        self._options = msgspec.structs.replace(
            options, half=False, interface="ragged", kv_cache="float"
        )
        self._n_ctx = n_ctx

    def entry(self, chunks: Sequence[TokenIds], embedding: Blocks | None = None) -> list[State]:
        """What the first layer reads, with the embedding as it is stored in the source or as it is
        given."""
        opened = self.opened(0, 0)
        return [opened(self.embedded(tokens, embedding)) for tokens in chunks]

    def opened(self, layer: int, stage: int) -> Callable[[Floats], State]:
        """Makes the state before a stage of a residual sum, where a norm comes between them (see
        Decoder.norm_model())."""
        running = _session(self._decoder("fp32").norm_model(layer, stage))

        def open_residual(residual: Floats) -> State:
            return State(x=running.run(None, {"residual": residual[None]})[0][0], residual=residual)

        return open_residual

    def embedded(self, tokens: TokenIds, embedding: Blocks | None = None) -> Floats:
        """The residual sum before the first layer."""
        if embedding is None:
            read = self._source.values
            rows = np.concatenate([read(EMBEDDING, one, one + 1) for one in tokens.tolist()])
        else:
            rows = embedding.of_rows(tokens).values()
        embedded: Floats = rows * np.float32(self._source.spec.embedding_scale)
        return embedded

    def stage(self, layer: int, stage: int, *, is_exact: bool) -> Stage:
        """With exact weights or with those that the graph will have."""
        weights = "fp32" if is_exact else self._options.weights
        model = self._decoder(weights).stage_model(layer, stage, self._n_ctx)
        return Stage(model, self._source.spec, layer)

    def passed(
        self, layer: int, stage: int, states: Sequence[State], *, is_exact: bool
    ) -> list[State]:
        """What a stage makes of *states*."""
        loaded = self.stage(layer, stage, is_exact=is_exact)
        return [loaded.run(state) for state in states]

    def advance(self, layer: int, states: list[State], *, is_exact: bool) -> None:
        """Let *states* pass a whole layer, each two stages at a time: between the last two it is
        largest."""
        for first in range(0, len(STAGES), 2):
            pair = [self.stage(layer, first + i, is_exact=is_exact) for i in range(2)]
            for i, state in enumerate(states):
                states[i] = through(pair, state)

    def _decoder(self, weights: Any) -> Decoder:
        options = msgspec.structs.replace(self._options, weights=weights)
        return Decoder(self._source, options, Initializers(None))


class Stage:
    """A stage that is loaded."""

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec, layer: int) -> None:
        past = np.zeros((1, spec.n_head_kv, 0, spec.n_per_head), np.float32)
        self._pasts = {f"past_key_values.{layer}.{part}": past for part in ("key", "value")}
        self._running = _session(model)
        self._inputs = {given.name for given in self._running.get_inputs()}
        names = [value.name for value in model.graph.output]
        self._caches = [name for name in names if name.startswith("present.")]
        self._after = [name for name in names if name not in self._caches]

    def run(self, state: State) -> State:
        """The state after the stage."""
        x, *changed = self._run(self._after, state)
        n_tokens = len(state.x)
        residual = changed[0].reshape(n_tokens, -1) if changed else state.residual
        return State(x=x.reshape(n_tokens, -1), residual=residual)

    def keys_and_values(self, state: State) -> tuple[Floats, Floats]:
        """As the KV cache holds them, (shared heads, tokens, size of a head); of the first stage
        of a layer."""
        keys, values = self._run(self._caches, state)
        return keys[0], values[0]

    def _run(self, outputs: list[str], state: State) -> list[Floats]:
        n_tokens = len(state.x)
        feeds: dict[str, npt.NDArray[Any]] = {
            "x": state.x[None],
            "residual": state.residual[None],
            "seqlens_k": np.array([n_tokens - 1], np.int32),
            "total_sequence_length": np.array(n_tokens, np.int32),
            "logits_rows": np.arange(n_tokens),
            **self._pasts,
        }
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        found: list[Floats] = self._running.run(outputs, feeds)
        return found


def through(stages: Sequence[Stage], state: State) -> State:
    """What *stages* make of a state one after the other."""
    for stage in stages:
        state = stage.run(state)
    return state


def _session(model: onnx.ModelProto) -> Any:
    options = session_options(default_threads(), spins=False)
    options.enable_cpu_mem_arena = False  # it would keep the most that a run took
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
