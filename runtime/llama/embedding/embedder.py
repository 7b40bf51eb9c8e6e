"""The Embedder on llama.cpp: a context of its own on a model's weights, made when it is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from spillover.runtime.backend import N_BATCH, DecodeAborted, Rows, Tokens
from spillover.runtime.embedding.embedder import InputPart, TokenizedInput, Vector
from spillover.runtime.engine import EmbeddingCard
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.embedding.context import EmbeddingContext, EmbeddingLayout
from spillover.runtime.llama.embedding.plan import EmbeddingPlan
from spillover.runtime.llama.governed_calls import GovernedCalls
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.model import LlamaModel

_N_SLOTS_WHOLE = 64
_N_SLOTS_SLICED = 16
"""Sequences of a KV cache see the cells of all others."""
_N_SLOTS_RECURRENT = 4
"""Each has a state of its own."""

_MOST_LOGITS = 1 << 24
"""llama.cpp computes the logits of each token that it makes a vector of: at most 64 MiB of them."""

_TYPES = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN,
    "cls": lib.LLAMA_POOLING_TYPE_CLS,
    "last": lib.LLAMA_POOLING_TYPE_LAST,
    "rank": lib.LLAMA_POOLING_TYPE_RANK,
}


class LlamaEmbedder:
    """See runtime/embedding/embedder.py for the contract. Does not own the model."""

    is_padded = False

    def __init__(self, model: LlamaModel, plan: EmbeddingPlan, calls: GovernedCalls) -> None:
        self._model = model
        self._plan = plan
        self._calls = calls
        self._abort_flag = AbortFlag()
        self._context: EmbeddingContext | None = None
        # llama.cpp pools over one batch: the mean of an input that is read in parts is made here.
        self._pools_here = not plan.is_whole and plan.pooling in ("mean", "cls")
        self._sums: dict[int, Vector] = {}
        self.is_sliced = not plan.is_whole
        self.n_vocab = model.n_vocab
        self.n_slots = self._slots()
        self.n_batch = min(N_BATCH, plan.n_ctx)
        if self.is_sliced:
            self.n_batch = min(self.n_batch, max(_MOST_LOGITS // model.n_vocab, 16))
        is_rank = plan.pooling == "rank"
        self.card = EmbeddingCard(
            pooling=plan.pooling,
            n_ctx=plan.n_ctx,
            n_values=1 if is_rank else model.n_embd_out,
            # llama.cpp makes probabilities of the two classes of Qwen3's rerankers.
            is_logit=is_rank and not model.metadata("general.architecture").startswith("qwen3"),
        )
        self._surroundings = self._find_surroundings()
        self._rank_template = model.rank_template

    def _slots(self) -> int:
        if self._plan.is_whole:
            return _N_SLOTS_WHOLE
        handle = self._model.handle
        if lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle):
            return _N_SLOTS_RECURRENT
        return _N_SLOTS_SLICED

    def _find_surroundings(self) -> tuple[int, int]:
        """How many special tokens precede and follow a text."""
        inner = self._model.tokenize_whole("a", add_special=False, parse_special=False)
        whole = self._model.tokenize_whole("a", add_special=True, parse_special=False)
        for start in range(len(whole) - len(inner) + 1):
            if np.array_equal(whole[start : start + len(inner)], inner):
                return start, len(whole) - start - len(inner)
        return 0, 0

    # --- tokens -----------------------------------------------------------------------------

    def tokenize(self, text: str, *, truncate: bool) -> TokenizedInput:
        tokens = self._model.tokenize_whole(text, add_special=True, parse_special=False)
        return TokenizedInput(self._cut(tokens, self._surroundings[1]) if truncate else tokens)

    def tokenize_pair(self, query: str, document: str, *, truncate: bool) -> TokenizedInput:
        """By the model's own template, or as llama.cpp's server joins them without one."""
        if self._rank_template is not None:
            return self._templated(self._rank_template, query, document, truncate=truncate)
        head = [*self._model.opening, *self._ids(query), *self._model.between]
        tail = list(self._model.closing)
        inner = self._ids(document)
        if truncate:
            inner = inner[: self._left(len(head) + len(tail))]
        return TokenizedInput(np.array([*head, *inner, *tail], dtype=np.int32))

    def _templated(
        self, template: str, query: str, document: str, *, truncate: bool
    ) -> TokenizedInput:
        texts = {"{query}": query, "{document}": document}
        prompt = re.sub(r"\{(?:query|document)\}", lambda found: texts[found[0]], template)
        tokens = self._model.tokenize_whole(prompt, add_special=False, parse_special=True)
        if not truncate:
            return TokenizedInput(tokens)
        end = template.rpartition("{document}")[2]
        n_tail = len(self._model.tokenize_whole(end, add_special=False, parse_special=True))
        return TokenizedInput(self._cut(tokens, n_tail))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._model.tokenize_whole(
            text, add_special=False, parse_special=False
        ).tolist()
        return ids

    def _left(self, n_tokens: int) -> int:
        n_left = self._plan.n_ctx - n_tokens
        if n_left <= 0:
            raise InvalidRequest(f"the query has {n_tokens} tokens: no document fits beside it")
        return n_left

    def _cut(self, tokens: Tokens, n_tail: int) -> Tokens:
        """*tokens* without those before the last *n_tail* that are too many."""
        n_ctx = self._plan.n_ctx
        if len(tokens) <= n_ctx:
            return tokens
        end = tokens[len(tokens) - n_tail :]
        return np.concatenate([tokens[: max(n_ctx - n_tail, 0)], end])[:n_ctx]

    # --- the loop ---------------------------------------------------------------------------

    @property
    def room(self) -> int:
        return 0 if self._context is None else self._context.layout.n_cells

    def make_room(self, n_tokens: int) -> None:
        n_cells = max(self.n_batch, 1 << (n_tokens - 1).bit_length())
        layout = EmbeddingLayout(
            n_cells=max(min(n_cells, max(self._plan.n_ctx, n_tokens)), _N_SLOTS_WHOLE),
            n_batch=self.n_batch,
            n_seq=self.n_slots,
            n_threads=self._calls.n_threads,
            pooling_type=(
                lib.LLAMA_POOLING_TYPE_NONE if self._pools_here else _TYPES[self._plan.pooling]
            ),
            is_whole=self._plan.is_whole,
        )
        self.close()
        self._context = EmbeddingContext(self._model, layout, self._abort_flag)

    def run(self, parts: Sequence[InputPart]) -> list[Vector]:
        context = self._context
        assert context is not None, "make_room() comes first"
        batch = [Rows(part.slot, part.start, part.tokens, True) for part in parts]
        try:
            self._calls.run(lambda: context.run(batch), context.set_threads)
        except DecodeAborted:
            for part in parts:
                self._sums.pop(part.slot, None)
            raise
        vectors = self._pool(parts, context) if self._pools_here else []
        for part in parts:
            if part.is_last:
                if not self._pools_here:
                    vectors.append(context.pooled(part.slot))
                context.forget(part.slot)
        return vectors

    def _pool(self, parts: Sequence[InputPart], context: EmbeddingContext) -> list[Vector]:
        """The means of the inputs that end, or the vectors of their first tokens."""
        rows = context.rows(sum(len(part.tokens) for part in parts))
        vectors, at = [], 0
        for part in parts:
            own = rows[at : at + len(part.tokens)]
            at += len(part.tokens)
            if self._plan.pooling == "cls":
                first = self._sums.pop(part.slot, own[0])
            else:
                first = own.sum(axis=0) + self._sums.pop(part.slot, 0.0)
            if not part.is_last:
                self._sums[part.slot] = first
            elif self._plan.pooling == "cls":
                vectors.append(first)
            else:
                vectors.append((first / (part.start + len(part.tokens))).astype(np.float32))
        return vectors

    def forget(self, slot: int) -> None:
        self._sums.pop(slot, None)
        if self._context is not None:
            self._context.forget(slot)

    def abort(self) -> None:
        self._abort_flag.raise_()

    def close(self) -> None:
        self._sums.clear()
        if self._context is not None:
            self._context.close()
            self._context = None
