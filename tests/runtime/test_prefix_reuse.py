"""Answers that begin with what an earlier one left in the KV cache are those of a cold cache, also
where layers do not remember every position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.backend import Backend, Logits, Rows, Tokens
from spillover.runtime.options import EngineOptions
from spillover.runtime.scheduling.kv_cache import KvCache
from tests import tiny_memories, tiny_models
from tests.loading import load

OPTIONS = EngineOptions(n_parallel=2, n_prefix_cached=2, n_ctx=512, n_kv=768, n_threads=1)
SAVED_BYTES = 1 << 20


def _onnx(target: Path) -> Path:
    config: dict[str, Any] = {**tiny_models.CONFIGS["mistral"], "max_position_embeddings": 512}
    source = tiny_models.write(target.with_name("source"), config)
    _write_byte_level(source / "tokenizer.json", config["vocab_size"])
    export(source, target, ExportOptions(weights="fp32"), lambda n_done, n_all: None)
    return target


def _write_byte_level(path: Path, n_vocab: int) -> None:
    """A tokenizer of a kind that the backend knows."""
    tokens = ["<0>", "<1>", *sorted(pre_tokenizers.ByteLevel.alphabet())][:n_vocab]
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:2])
    tokenizer.save(str(path))


MAKERS: dict[str, Callable[[Path], Path]] = {
    "windowed": tiny_memories.write_windowed,
    "windowed-apart": tiny_memories.write_windowed,
    "hybrid": tiny_memories.write_hybrid,
    "recurrent": tiny_memories.write_recurrent,
    "windowed-onnx": _onnx,
}


@pytest.fixture(scope="module", params=MAKERS)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    name = request.param
    suffix = "" if "onnx" in name else ".gguf"
    path = MAKERS[name](tmp_path_factory.mktemp("tiny") / f"model{suffix}")
    layout = "on" if name == "windowed-apart" else "off"
    backend = load(path, "tiny", msgspec.structs.replace(OPTIONS, second_layout=layout)).backend
    assert "second layout" in backend.info.device or layout == "off"
    yield backend
    backend.close()


class Conversations:
    """Answers one prompt after the other, as the scheduler does."""

    def __init__(self, backend: Backend, saved_bytes: int = SAVED_BYTES) -> None:
        self._backend = backend
        for seq in range(backend.info.n_seq):
            backend.keep(seq, 0)
        self._kv = KvCache(backend, OPTIONS.n_prefix_cached, saved_bytes)
        self._live: list[tuple[int, Tokens]] = []
        self.n_held = 0
        """Tokens that the last prompt did not read."""

    def run(self, prompt: Tokens) -> None:
        """Begin an answer that goes on beside the others, a token for each of theirs."""
        placed = self._kv.place(prompt, 64, [])
        assert placed is not None
        self._read(placed[0], prompt, placed[1], 64)
        self._live = [(placed[0], prompt)]

    def go_on(self) -> tuple[Tokens, Logits] | None:
        """The next token of that answer: its text so far, and the logits after it."""
        if not self._live:
            return None
        seq, tokens = self._live[0]
        tokens = np.append(tokens, text(len(tokens) + 1, salt=8)[-1:])
        self._live = [(seq, tokens)]
        return tokens, self._read(seq, tokens, len(tokens) - 1, 1)

    def answer(self, prompt: Tokens, n_answer: int = 8, slices: int = 64) -> Logits:
        """The logits after *prompt*, whose answer has *n_answer* tokens."""
        placed = self._kv.place(prompt, n_answer + 1, self._live)
        assert placed is not None
        seq, self.n_held = placed
        for _ in range(3):
            self._kv.save_one_prefix()
        logits = self._read(seq, prompt, self.n_held, slices)
        tokens = np.append(prompt, text(n_answer, salt=9))
        for position in range(len(prompt), len(tokens)):
            self.go_on()
            self._read(seq, tokens[: position + 1], position, 1)
        self._kv.release(seq, tokens)
        return logits

    def cold(self, prompt: Tokens) -> Logits:
        """The same with nothing to begin with."""
        assert self._kv.make_room(len(prompt))
        seq = self._kv.take_id()
        logits = self._read(seq, prompt, 0, 64)
        self._kv.drop(seq)
        return logits

    def _read(self, seq: int, tokens: Tokens, start: int, slices: int) -> Logits:
        for first in range(start, len(tokens), slices):
            part = tokens[first : first + slices]
            assert self._kv.make_room(len(part))
            self._backend.decode([Rows(seq, first, part, first + len(part) == len(tokens))])
            self._kv.extend(seq, len(part))
        return self._backend.logits(0).copy()


def text(n: int, salt: int) -> Tokens:
    return np.random.RandomState(salt).randint(2, 96, n).astype(np.int32)


def same(a: Logits, b: Logits) -> bool:
    """But for rounding: one wrong position makes a hundred times as much."""
    return float(np.abs(a - b).max()) < 0.02 * float(a.std())


def test_a_repeated_prompt_gets_the_same_answer_after_another_one(backend: Backend) -> None:
    conversations, prompt = Conversations(backend), text(150, salt=1)
    cold = conversations.answer(prompt, n_answer=80)
    conversations.answer(text(40, salt=2))
    assert same(conversations.answer(prompt), cold)
    assert same(conversations.answer(prompt), cold)


def test_prompts_that_share_their_beginning_do_not_share_more(backend: Backend) -> None:
    conversations, shared = Conversations(backend), text(130, salt=1)
    first, second = (np.append(shared, text(n, salt=n)) for n in (60, 6))
    cold = conversations.cold(second)
    conversations.answer(first, n_answer=40)
    conversations.answer(text(40, salt=4))
    assert same(conversations.answer(second), cold)


def test_the_next_turn_reads_only_what_is_new(backend: Backend) -> None:
    conversations, prompt = Conversations(backend), text(150, salt=1)
    turn = np.concatenate([prompt, text(30, salt=9), text(20, salt=5)])
    cold = conversations.cold(turn)
    conversations.answer(prompt, n_answer=30)
    conversations.answer(text(40, salt=2))
    assert same(conversations.answer(turn), cold)
    assert conversations.n_held == 180


def test_who_shares_the_beginning_of_an_answer_that_goes_on_disturbs_it_not(
    backend: Backend,
) -> None:
    conversations, prompt = Conversations(backend), text(100, salt=1)
    follower = np.append(prompt[:90], text(20, salt=2))
    cold = conversations.cold(follower)
    conversations.run(prompt)
    assert same(conversations.answer(follower, n_answer=30), cold)
    assert same(conversations.answer(follower, n_answer=30), cold)
    found = conversations.go_on()
    assert found is not None
    assert same(conversations.cold(found[0]), found[1])


Turn = st.tuples(
    st.integers(0, 2),  # whose beginning
    st.sampled_from([0, 20, 90, 140]),  # how much of it
    st.integers(0, 2),  # and which end
    st.sampled_from([1, 17, 60]),
    st.sampled_from([0, 5, 50]),  # answered with so many tokens
    st.sampled_from([16, 33, 200]),  # read in such slices
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(Turn, min_size=2, max_size=7), st.sampled_from([0, 20_000, SAVED_BYTES]), st.booleans()
)
def test_whatever_was_answered_before_each_answer_is_the_cold_one(
    backend: Backend,
    turns: list[tuple[int, int, int, int, int, int]],
    saved_bytes: int,
    runs_beside: bool,
) -> None:
    prompts = [np.append(text(140, b)[:n], text(m, 10 + e)) for b, n, e, m, _, _ in turns]
    cold = [Conversations(backend).cold(prompt) for prompt in prompts]
    conversations = Conversations(backend, saved_bytes)
    if runs_beside:
        conversations.run(text(60, 0))
    for prompt, wanted, turn in zip(prompts, cold, turns, strict=True):
        assert same(conversations.answer(prompt, *turn[4:]), wanted)
    found = conversations.go_on()
    if found is not None:
        assert same(conversations.cold(found[0]), found[1])
