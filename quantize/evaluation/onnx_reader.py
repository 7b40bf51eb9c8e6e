"""Reads chunks of text with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError
from spillover.quantize.errors import QuantizeError
from spillover.runtime.backend import N_BATCH, Logits, Tokens
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.feeds import Feeds, feeds
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.execution import Needs, on_cpu, runtime_version
from spillover.runtime.onnx.runners.stepwise_runner import StepwiseRunner
from spillover.runtime.onnx.settings import read_settings
from spillover.runtime.onnx.tokenizer import OnnxTokenizer

_ROUNDS_TOGETHER = (
    "{} rounds its activations with one scale for all tokens of a call: what it loses while it "
    "writes, one token at a time, may differ."
)


class OnnxReader:
    """See readers.py. It runs the graph that serves, on the CPU: one that was exported for a single
    new token reads token by token."""

    def __init__(self, path: Path, n_ctx: int) -> None:
        try:
            files = onnx_folder.find(path)
            settings = read_settings(files)
        except ModelFileError as error:
            raise ModelError(str(error)) from error
        self._tokenizer = OnnxTokenizer(files, settings)
        n_ctx_train = settings.n_ctx_train
        graph = prepare(files.graph, runtime_version=runtime_version(), n_ctx=n_ctx_train)
        self._layout = graph.layout
        inputs = graph.layout.inputs
        if graph.layout.logits_form == "last" and inputs.n_logits is None:
            raise QuantizeError(
                f"{path} returns the logits of the last position only, so it cannot be compared: "
                "export the model with the logits of all positions"
            )
        self.n_ctx = min(n_ctx, n_ctx_train, self._layout.n_ctx or n_ctx)
        self.n_vocab = self._layout.n_vocab or settings.n_vocab or len(self._tokenizer.pieces)
        n_threads = default_threads()
        needs = Needs(n_seq=1, n_ctx=self.n_ctx, n_vocab=self.n_vocab, n_threads=n_threads)
        execution = on_cpu(graph, needs)
        self._session = execution.session
        self._session.arm()
        self._n_batch = 1 if isinstance(execution.runner, StepwiseRunner) else N_BATCH
        self.notes: tuple[str, ...] = ()
        if self._layout.rounds_together:
            self.notes = (_ROUNDS_TOGETHER.format(path.name),)

    def tokenize(self, text: str) -> Tokens:
        return self._tokenizer.tokenize(text, add_special=True, parse_special=False)

    def read(self, tokens: Tokens, first: int) -> Logits:
        logits = np.empty((len(tokens) - first, self.n_vocab), np.float32)
        past = self._empty_past(len(tokens))
        for start in range(0, len(tokens), self._n_batch):
            part = tokens[start : start + self._n_batch]
            n_asked = min(start + len(part) - first, len(part))
            found, past = self._run(part, start, max(n_asked, 1), past)
            if n_asked > 0:
                place = start + len(part) - first - n_asked
                logits[place : place + n_asked] = found
        return logits

    def _run(self, tokens: Tokens, start: int, n_asked: int, past: Feeds) -> tuple[Logits, Feeds]:
        """The logits of the last *n_asked* of *tokens*, and the KV cache after them."""
        inputs, layout = self._layout.inputs, self._layout
        arrays = {**feeds(inputs, [tokens], [start]), **past}
        if inputs.logits_rows is not None:
            arrays[inputs.logits_rows] = np.arange(len(tokens) - n_asked, len(tokens))
        if inputs.n_logits is not None:
            arrays[inputs.n_logits] = np.array(n_asked, np.int64)
        binding = self._session.binding()
        binding.feed(arrays)
        for name in (layout.logits, *(cache.present for cache in layout.caches)):
            binding.raw.bind_output(name)
        self._session.run(binding)
        logits, *present = (value.numpy() for value in binding.raw.get_outputs())
        rows: Logits = logits.reshape(-1, self.n_vocab)[-n_asked:]
        caches = zip(layout.caches, present, strict=True)
        return rows, {cache.past: array for cache, array in caches}

    def _empty_past(self, n_tokens: int) -> Feeds:
        """Caches that grow with the text, or have room for it where the graph writes into them."""
        past: Feeds = {}
        for cache in self._layout.caches:
            shape = [size or 1 for size in cache.shape]
            shape[cache.batch_axis] = 1
            room = n_tokens if self._layout.attention == "scatter" else 0
            shape[cache.length_axis] = cache.capacity or room
            past[cache.past] = np.zeros(shape, self._session.dtype(cache.past))
        return past

    def close(self) -> None:
        """Free the model's memory, although this object may live on."""
        del self._session
