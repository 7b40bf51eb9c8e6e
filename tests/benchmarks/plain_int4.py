"""A plain-attention export with int4 weights, as transformers.js has them, and the loop that its
users write."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.graph.builder import GraphBuilder
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.quantize.onnx_export.graph.linear import LinearLayers
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.onnx.library import ort
from tests.plain_decoder import Decoder, model_of


class _Int4Decoder(Decoder):
    def __init__(self, source: HfSource, graph: GraphBuilder) -> None:
        super().__init__(source, graph, "", has_past=True)
        self._linear = LinearLayers(source, ExportOptions(interface="genai"), graph)

    def _embedded(self) -> str:
        return self._linear.embedding("input_ids", "embedded")

    def _head(self, x: str, logits: str) -> None:
        self._linear.logits(x, logits)

    def _product(self, x: str, name: str) -> str:
        return self._linear.product(x, [name], f"{name}.product")

    def _mean(self, x: str) -> str:
        return self._add("ReduceMean", x, self._int(-1))


def write(source: Path, target: Path) -> None:
    hf = HfSource(source)
    graph = GraphBuilder(Initializers(None))
    _Int4Decoder(hf, graph).build("logits", "present")
    target.mkdir()
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    onnx.save(model_of(hf, graph, [], opset=18), target / "model.onnx")


class NumpyLoop:
    """session.run with the past and the present as numpy arrays."""

    def __init__(self, path: Path, n_threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]
        self._past: dict[str, Any] = {
            value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past")
        }
        self._n_past = 0

    def step(self, tokens: list[int]) -> int:
        """Read *tokens*; the likeliest next one."""
        n_all = self._n_past + len(tokens)
        feed = {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, n_all), np.int64),
            "position_ids": np.arange(self._n_past, n_all)[None],
            **self._past,
        }
        logits, *present = self._session.run(None, feed)
        self._past = dict(zip(self._past, present, strict=True))
        self._n_past = n_all
        return int(logits[0, -1].argmax())

    def step_cpu_s(self) -> float:
        """Of reading one token."""
        began = time.process_time()
        self.step([300])
        return time.process_time() - began
