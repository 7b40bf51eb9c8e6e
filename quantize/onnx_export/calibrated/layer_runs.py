"""Runs a decoder layer by layer over a calibration text, so that one layer is held at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct

from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.calibrated.tokens import TokenIds
from spillover.quantize.onnx_export.decoder_graph import Decoder
from spillover.quantize.onnx_export.initializers import Initializers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import EMBEDDING, WeightSource
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.session import session_options


class State(Struct, frozen=True, kw_only=True):
    """What one chunk of the text has become, (tokens, n_hidden) each."""

    x: Floats
    """Normalized: the input of the next product."""
    residual: Floats


class LayerRuns:
    """Layers as graphs of their own. *n_ctx* is that of the whole graph."""

    def __init__(self, source: WeightSource, options: ExportOptions, n_ctx: int) -> None:
        self._source = source
        self._options = msgspec.structs.replace(options, half=False, interface="ragged")
        self._n_ctx = n_ctx

    def entry(self, chunks: Sequence[TokenIds]) -> list[State]:
        """What the first layer reads, with the embedding as it is stored in the source."""
        residuals = [self._embedded(tokens) for tokens in chunks]
        running = _session(self._decoder("fp32").entry_model())
        return [
            State(x=running.run(None, {"residual": one[None]})[0][0], residual=one)
            for one in residuals
        ]

    def _embedded(self, tokens: TokenIds) -> Floats:
        rows = [self._source.values(EMBEDDING, token, token + 1) for token in tokens.tolist()]
        scale = np.float32(self._source.spec.embedding_scale)
        embedded: Floats = np.concatenate(rows) * scale
        return embedded

    def layer(self, index: int, *, is_exact: bool) -> Layer:
        """A layer, with exact weights or with those that the graph will have."""
        weights = "fp32" if is_exact else self._options.weights
        return Layer(self._decoder(weights).layer_model(index, self._n_ctx), self._source, index)

    def _decoder(self, weights: Any) -> Decoder:
        options = msgspec.structs.replace(self._options, weights=weights)
        return Decoder(self._source, options, Initializers(None))


class Layer:
    """A layer that is loaded."""

    def __init__(self, model: onnx.ModelProto, source: WeightSource, index: int) -> None:
        spec = source.spec
        self._index = index
        self._past = np.zeros((1, spec.n_head_kv, 0, spec.n_per_head), np.float32)
        self._outputs = [value.name for value in model.graph.output]
        self._running = _session(model)

    def run(self, state: State) -> tuple[State, dict[str, Floats]]:
        """The state after the layer, and the inputs of its products (tokens, inputs), by name."""
        n_tokens = len(state.x)
        feeds: dict[str, npt.NDArray[Any]] = {
            "x": state.x[None],
            "residual": state.residual[None],
            "seqlens_k": np.array([n_tokens - 1], np.int32),
            "total_sequence_length": np.array(n_tokens, np.int32),
            "logits_rows": np.arange(n_tokens),
        }
        for part in ("key", "value"):
            feeds[f"past_key_values.{self._index}.{part}"] = self._past
        wanted = {given.name for given in self._running.get_inputs()}
        feeds = {name: value for name, value in feeds.items() if name in wanted}
        found = dict(zip(self._outputs, self._running.run(self._outputs, feeds), strict=True))
        flat = {name: value.reshape(n_tokens, -1) for name, value in found.items()}
        after = State(x=flat[self._outputs[0]], residual=flat[self._outputs[1]])
        return after, {name: flat[name] for name in self._outputs[2:]}


def _session(model: onnx.ModelProto) -> Any:
    options = session_options(default_threads(), spins=False)
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
