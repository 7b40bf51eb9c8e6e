"""A small model that proposes tokens for a larger one with the same vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spillover.runtime.backend import DecodeAborted, DecodeFailed, KvFull, Rows, Tokens
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.abort import AbortFlag
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.model import LlamaModel

MOST_READ = 64
"""Tokens of texts that a call reads before it proposes something, while the streams wait."""

_N_COMPARED = 1024
"""Tokens of the two vocabularies that are compared, spread over them."""


class LlamaDraftModel:
    """See DraftModel in runtime/backend.py for the contract.

    It keeps what it has read of a sequence until another text comes under its id, or the cells are
    needed.
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
        self._held: dict[int, Tokens] = {}

    def propose(self, texts: Sequence[tuple[int, Tokens]], n: int) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in texts]
        try:
            if self._read(texts):
                self._go_on(texts, drafts, n)
        except (KvFull, DecodeAborted, DecodeFailed):
            self._forget()
            return [[] for _ in texts]
        return drafts

    def _read(self, texts: Sequence[tuple[int, Tokens]]) -> bool:
        """Read what is missing of *texts*, all but their last tokens; False where that is more than
        a call reads."""
        left = MOST_READ
        for seq, tokens in texts:
            n_held = self._keep_common(seq, tokens)
            part = tokens[n_held : min(len(tokens) - 1, n_held + left)]
            if len(part):
                self._context.decode([Rows(seq, n_held, part, False)])
                self._held[seq] = tokens[: n_held + len(part)].copy()
                left -= len(part)
        return all(len(self._held[seq]) == len(tokens) - 1 for seq, tokens in texts)

    def _keep_common(self, seq: int, tokens: Tokens) -> int:
        """Cut what is held of *seq* to what *tokens* begin with; returns how many that are."""
        held = self._held.get(seq, tokens[:0])
        n = min(len(held), len(tokens) - 1)
        differing = np.flatnonzero(held[:n] != tokens[:n])
        n = int(differing[0]) if len(differing) else n
        n = self._context.keep(seq, n) if n < len(held) else n
        self._held[seq] = held[:n]
        return n

    def _go_on(self, texts: Sequence[tuple[int, Tokens]], drafts: list[list[int]], n: int) -> None:
        """Add the *n* likeliest next tokens of each text to its draft, one after the other."""
        last = [int(tokens[-1]) for _, tokens in texts]
        for _ in range(n):
            batch = [
                Rows(seq, len(self._held[seq]), np.array([token], dtype=np.int32), True)
                for (seq, _), token in zip(texts, last, strict=True)
            ]
            outputs = self._context.decode(batch)
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
        """Free all cells: they are full, or what they hold is not known any more."""
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
