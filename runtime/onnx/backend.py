"""The Backend on ONNX Runtime: one graph, its tokenizer, and a KV cache of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from spillover.runtime.backend import (
    BackendInfo,
    Constraint,
    DecodeAborted,
    KvFull,
    KvSaver,
    Logits,
    Rows,
    Sampler,
    SavedKv,
    Tokens,
)
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.onnx.penalties import SequenceBreakers
from spillover.runtime.onnx.runners.execution import Execution
from spillover.runtime.onnx.runners.logits import n_computed
from spillover.runtime.onnx.sampler import NumpySampler, bias_of
from spillover.runtime.onnx.tokenizer import OnnxTokenizer
from spillover.runtime.sampling import Sampling


class OnnxBackend:
    """See runtime/backend.py for the contract."""

    def __init__(self, info: BackendInfo, execution: Execution, tokenizer: OnnxTokenizer) -> None:
        self.info = info
        self._session = execution.session
        self._runner = execution.runner
        self._tokenizer = tokenizer
        dtype = self._session.dtype(execution.layout.logits)
        self._logits = np.empty((info.n_outputs, info.n_vocab), dtype=dtype)
        caches = execution.layout.caches
        self.layout = repr([(c.layer, c.kind, c.dtype, c.shape, c.length_axis) for c in caches])
        self._cell_bytes = execution.layout.kv_bytes_per_position
        self.saves_parts = execution.has_parts
        self._row_of: list[int] = []
        self._is_aborted = False
        self._breakers = functools.lru_cache(maxsize=8)(self._new_breakers)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        tokens = self._tokenizer.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )
        if len(tokens) and int(tokens.max()) >= self.info.n_vocab:
            raise InvalidRequest(
                f"the tokenizer produces token id {tokens.max()}, which the model's vocabulary of "
                f"{self.info.n_vocab} tokens lacks: the files do not belong together",
                "prompt",
            )
        return tokens

    def token_bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)

    def control_text(self, token: int) -> str:
        return self._tokenizer.control_text(token)

    def is_eog(self, token: int) -> bool:
        return self._tokenizer.is_eog(token)

    def sampler(
        self,
        sampling: Sampling,
        seed: int,
        *,
        ignore_eos: bool,
        constraint: Constraint | None = None,
        shows_distribution: bool = False,
    ) -> Sampler:
        n_vocab = self.info.n_vocab
        forbidden = [t for t in self._tokenizer.eog_tokens if t < n_vocab] if ignore_eos else []
        return NumpySampler(
            self.logits,
            sampling,
            seed,
            n_ctx=self.info.n_kv,
            bias=bias_of(sampling, forbidden),
            breakers=self._breakers(sampling.dry_sequence_breakers) if sampling.has_dry else None,
            constraint=constraint,
            shows_distribution=shows_distribution,
        )

    def _new_breakers(self, texts: tuple[str, ...]) -> SequenceBreakers:
        def tokenize(text: str) -> list[int]:
            ids: list[int] = self.tokenize(text, add_special=False, parse_special=False).tolist()
            return ids

        return SequenceBreakers(texts, self._tokenizer.pieces, tokenize)

    def decode(self, batch: Sequence[Rows]) -> None:
        self._check_room(batch)
        self._is_aborted = False
        self._session.arm()
        firsts = [0] * len(batch)
        n_done = 0
        for places in self._runner.split(batch):
            self._run([batch[place] for place in places], n_done)
            for place in places:
                firsts[place] = n_done
                n_done += n_computed(batch[place])
        self._row_of = [
            first + i
            for first, rows in zip(firsts, batch, strict=True)
            for i in range(rows.n_outputs)
        ]

    def _run(self, run: list[Rows], first: int) -> None:
        if self._is_aborted:
            raise DecodeAborted
        self._runner.run(run, self._logits[first : first + sum(map(n_computed, run))])

    def _check_room(self, batch: Sequence[Rows]) -> None:
        held = self._runner.held
        n_new = sum(len(rows.tokens) for rows in batch)
        if sum(held) + n_new > self.info.n_kv:
            raise KvFull
        for rows in batch:
            assert rows.start == held[rows.seq], "tokens must follow those that are held"
            if rows.start + len(rows.tokens) > self._runner.capacity:
                raise KvFull

    def logits(self, output: int) -> Logits:
        row: Logits = self._logits[self._row_of[output]].astype(np.float32, copy=False)
        return row

    def save_power(self, *, is_on: bool) -> None:
        """ONNX Runtime starts its threads with the session, and keeps them."""

    def keep(self, seq: int, n_tokens: int) -> int:
        n = min(n_tokens, self._runner.held[seq])
        self._runner.truncate(seq, n)
        return n

    def copy(self, source: int, target: int, n_tokens: int) -> int:
        held = self._runner.held
        n = min(n_tokens, held[source])
        if sum(held) + n - held[target] > self.info.n_kv:
            return held[target]
        self._runner.copy(source, target, n)
        return n

    # --- saved states (KvSaver in runtime/backend.py) ----------------------------------------

    @property
    def saver(self) -> KvSaver | None:
        return self if self._cell_bytes else None

    are_cut = True

    def can_save(self, seq: int, start: int, end: int) -> bool:
        return end <= self._runner.held[seq]

    def saved_bytes(self, seq: int, start: int, end: int) -> int:
        return (end - start) * self._cell_bytes

    def save(self, seq: int, start: int, end: int) -> SavedKv:
        return self._runner.save(seq, start, end)

    def append(self, seq: int, start: int, end: int, state: SavedKv) -> bool:
        held, n = self._runner.held, end - start
        is_room = sum(held) + n <= self.info.n_kv and end <= self._runner.capacity
        if state.nbytes != n * self._cell_bytes or start != held[seq] or not is_room:
            return False
        self._runner.append(seq, n, state)
        return True

    reader = None
    """Small slices are read as fast as large ones here: they fit between two tokens of others."""

    draft_model = None

    def abort(self) -> None:
        self._is_aborted = True
        self._session.stop()

    def close(self) -> None:
        pass
