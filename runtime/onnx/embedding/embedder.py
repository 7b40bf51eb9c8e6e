"""The Embedder on ONNX Runtime: whole inputs, padded to the longest one of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import N_BATCH, DecodeFailed
from spillover.runtime.embedding.embedder import InputPart, TokenizedInput, Vector
from spillover.runtime.engine import EmbeddingCard
from spillover.runtime.onnx.embedding.graph import EmbeddingGraph
from spillover.runtime.onnx.embedding.tokenizer import EncoderTokenizer
from spillover.runtime.onnx.feeds import Feeds
from spillover.runtime.onnx.session import OnnxSession

_N_SLOTS = 64


class OnnxEmbedder:
    """See runtime/embedding/embedder.py for the contract."""

    n_slots = _N_SLOTS
    n_batch = N_BATCH
    is_sliced = False
    is_padded = True

    def __init__(
        self,
        session: OnnxSession,
        graph: EmbeddingGraph,
        tokenizer: EncoderTokenizer,
        card: EmbeddingCard,
        n_vocab: int,
    ) -> None:
        self.card = card
        self.n_vocab = n_vocab
        self.room = card.n_ctx
        self._session = session
        self._graph = graph
        self._tokenizer = tokenizer
        self._binding = session.binding()

    def tokenize(self, text: str, *, truncate: bool) -> TokenizedInput:
        return self._tokenizer.single(text, self.card.n_ctx if truncate else None)

    def tokenize_pair(self, query: str, document: str, *, truncate: bool) -> TokenizedInput:
        return self._tokenizer.pair(query, document, self.card.n_ctx if truncate else None)

    def make_room(self, n_tokens: int) -> None:
        pass

    def run(self, parts: Sequence[InputPart]) -> list[Vector]:
        counts = np.array([len(part.tokens) for part in parts])
        self._binding.feed(self._feeds(parts, counts))
        self._binding.make(self._graph.output)
        self._session.arm()
        self._session.run(self._binding)
        found = self._binding.made()
        if len(found) != len(parts):
            raise DecodeFailed(f"the graph makes {len(found)} rows of {len(parts)} inputs")
        return list(self._pooled(found, counts).astype(np.float32))

    def _feeds(self, parts: Sequence[InputPart], counts: npt.NDArray[Any]) -> Feeds:
        graph, shape = self._graph, (len(parts), int(counts.max()))
        ids, segments = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, part in enumerate(parts):
            ids[row, : len(part.tokens)] = part.tokens
            if part.segments is not None:
                segments[row, : len(part.segments)] = part.segments
        arrays: Feeds = {graph.ids: ids}
        if graph.mask is not None:
            arrays[graph.mask] = (np.arange(shape[1]) < counts[:, None]).astype(np.int64)
        if graph.segments is not None:
            arrays[graph.segments] = segments
        if graph.positions is not None:
            arrays[graph.positions] = np.broadcast_to(np.arange(shape[1]), shape)
        for name, row_shape in graph.pasts.items():
            arrays[name] = np.zeros((len(parts), *row_shape))
        return arrays

    def _pooled(self, found: npt.NDArray[Any], counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(rows, n_values) of what the graph has made."""
        if self._graph.kind == "scores":
            return found.reshape(len(counts), -1)[:, :1]
        if self._graph.kind == "vectors":
            return found
        if self.card.pooling == "cls":
            return found[:, 0]
        if self.card.pooling == "last":
            return np.asarray(found[np.arange(len(counts)), counts - 1])
        is_real = (np.arange(found.shape[1]) < counts[:, None]).astype(np.float32)
        sums = np.einsum("rph,rp->rh", found.astype(np.float32, copy=False), is_real)
        return np.asarray(sums / counts[:, None])

    def forget(self, slot: int) -> None:
        pass

    def abort(self) -> None:
        self._session.stop()

    def close(self) -> None:
        pass
