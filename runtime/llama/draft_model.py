"""A small model that proposes tokens for a larger one with the same vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from spillover.runtime.backend import Rows, Tokens
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.model import LlamaModel

_N_COMPARED = 1024
"""Tokens of the two vocabularies that are compared, spread over them."""


class LlamaDraftModel:
    """See DraftModel in runtime/backend.py for the contract.

    It keeps what it has read of a sequence as long as the large model does, or until the cells are
    needed. It does not share the cells of equal beginnings.
    """

    def __init__(self, path: Path, main: LlamaModel, config: LlamaConfig) -> None:
        """Raises ModelError when it cannot be loaded, or is of no use to *main*."""
        self._model = LlamaModel(
            path, n_gpu_layers=config.n_gpu_layers, use_extra_bufts=config.use_extra_bufts
        )
        self._flag = AbortFlag()
        try:
            _compare(path, self._model, main)
            self._context = LlamaContext(self._model, config, self._flag)
            if not self._context.can_be_cut_anywhere:
                self._context.close()
                raise ModelError(
                    f"draft_model {path} forgets what wrong tokens displace: choose one whose "
                    "layers all see the whole text"
                )
        except BaseException:
            self._model.close()
            raise
        self._n_vocab = min(main.n_vocab, self._model.n_vocab)
        self._n_batch = config.n_batch
        self._held: dict[int, Tokens] = {}
        """What has been read, by sequence."""

    @property
    def n_bytes(self) -> int:
        """Of its weights."""
        return self._model.n_bytes

    def n_unread(self, seq: int, tokens: Tokens) -> int:
        return len(tokens) - 1 - self._n_common(seq, tokens)

    def has_room(self, n_tokens: int, seqs: Collection[int]) -> bool:
        n_most = self._context.n_kv - n_tokens
        if sum(len(self._held[seq]) for seq in seqs if seq in self._held) > n_most:
            return False
        others = [seq for seq in self._held if seq not in seqs]
        while sum(map(len, self._held.values())) > n_most:
            self.keep(others.pop(0), 0)
        return True

    def keep(self, seq: int, n_tokens: int) -> None:
        """Forget what follows the first *n_tokens* of a sequence, as the large model does."""
        if n_tokens < len(self._held.get(seq, ())):
            n_kept = self._context.keep(seq, n_tokens)
            self._held[seq] = self._held[seq][:n_kept]

    def read(self, seq: int, tokens: Tokens, n: int) -> None:
        start = self._n_common(seq, tokens)
        self.keep(seq, start)
        end = min(start + n, len(tokens) - 1)
        for first in range(start, end, self._n_batch):
            part = tokens[first : min(first + self._n_batch, end)]
            self._decode([Rows(seq, first, part, False)])
            self._held[seq] = tokens[: first + len(part)].copy()

    def propose(self, texts: Sequence[tuple[int, Tokens]], n: int) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in texts]
        for seq, tokens in texts:
            self.keep(seq, len(tokens) - 1)  # wrong tokens of its last draft
            assert not self.n_unread(seq, tokens), "it has read them"
            self._held.setdefault(seq, tokens[:0])
        self._go_on(texts, drafts, n)
        return drafts

    def _decode(self, batch: list[Rows]) -> list[int]:
        try:
            return self._context.decode(batch)
        except BaseException:
            self._forget()
            raise

    def _n_common(self, seq: int, tokens: Tokens) -> int:
        """How many of *tokens*, but for the last one, it has read."""
        held = self._held.get(seq, tokens[:0])
        n = min(len(held), len(tokens) - 1)
        differing = np.flatnonzero(held[:n] != tokens[:n])
        return int(differing[0]) if len(differing) else n

    def _go_on(self, texts: Sequence[tuple[int, Tokens]], drafts: list[list[int]], n: int) -> None:
        """Add the *n* likeliest next tokens of each text to its draft, one after the other."""
        last = [int(tokens[-1]) for _, tokens in texts]
        for _ in range(n):
            batch = [
                Rows(seq, len(self._held[seq]), np.array([token], dtype=np.int32), True)
                for (seq, _), token in zip(texts, last, strict=True)
            ]
            outputs = self._decode(batch)
            for rows in batch:
                self._held[rows.seq] = np.append(self._held[rows.seq], rows.tokens)
            last = [self._likeliest(row) for row in outputs]
            for draft, token in zip(drafts, last, strict=True):
                draft.append(token)

    def _likeliest(self, row: int) -> int:
        pointer = lib.llama_get_logits_ith(self._context.handle, row)
        logits = np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab,))
        return int(logits[: self._n_vocab].argmax())

    def _forget(self) -> None:
        """Free all cells: what they hold is not known any more."""
        for seq in self._held:
            self._context.keep(seq, 0)
        self._held.clear()

    def set_threads(self, n_threads: int) -> None:
        """Compute with this many threads from the next call on."""
        self._context.set_threads(n_threads)

    def abort(self) -> None:
        self._flag.raise_()

    def close(self) -> None:
        self._context.close()
        self._model.close()


def _compare(path: Path, draft: LlamaModel, main: LlamaModel) -> None:
    """Raises ModelError unless a token means the same to both models."""
    n = min(draft.n_vocab, main.n_vocab)
    compared = np.linspace(0, n - 1, _N_COMPARED, dtype=np.int32).tolist()
    if any(draft.special_text(token) != main.special_text(token) for token in compared):
        raise ModelError(
            f"draft_model {path} has another vocabulary than the model: choose a small model of "
            "the same family"
        )
