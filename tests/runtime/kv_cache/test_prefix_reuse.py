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
from spillover.runtime.backend import Backend
from spillover.runtime.kv_cache import cache, prefix_saver
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_memories, tiny_models
from tests.loading import load
from tests.runtime.kv_cache.conversations import SAVED_BYTES, Conversations, same, text

OPTIONS = EngineOptions(n_parallel=2, n_prefix_cached=2, n_ctx=512, n_kv=768, n_threads=1)


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


def _plain(target: Path) -> Path:
    return tiny_gguf.write_model(target, tiny_models.CONFIGS["llama"])


MAKERS: dict[str, Callable[[Path], Path]] = {
    "plain": _plain,
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


def test_instructions_are_not_taken_for_the_conversation_they_began(backend: Backend) -> None:
    """The state of all of it was saved for them where a state cannot be cut, and the next
    conversation ended the worker."""
    conversations, preamble = Conversations(backend), text(100, salt=1)
    prompts = [np.append(preamble, text(20, salt)) for salt in range(2, 6)]
    cold = [conversations.cold(prompt) for prompt in prompts]
    for _ in range(2):
        for i, prompt in enumerate(prompts):
            assert same(conversations.answer(prompt, n_preamble=100), cold[i])
            conversations.answer(text(60, salt=20 + i))
            conversations.answer(text(60, salt=30 + i))


def test_every_turn_of_a_conversation_can_be_saved(backend: Backend) -> None:
    """Where a state of all takes the place of an earlier one, each third turn was lost."""
    conversations, turn = Conversations(backend, n_kept=0), text(40, salt=1)
    for salt in range(2, 7):
        wanted = conversations.cold(turn)
        assert same(conversations.answer(turn, n_answer=4, n_preamble=20), wanted)
        assert conversations.n_held == (len(turn) - 10 if salt > 2 else 0)
        turn = np.concatenate([turn, text(4, salt=9), text(10, salt)])


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


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cache, prefix_saver):
        monkeypatch.setattr(module, "N_PART", 32)


Turn = st.tuples(
    st.integers(0, 2),  # whose beginning
    st.sampled_from([0, 20, 90, 140]),  # how much of it
    st.integers(0, 2),  # and which end
    st.sampled_from([1, 17, 60]),
    st.sampled_from([0, 5, 50]),  # answered with so many tokens
    st.sampled_from([16, 33, 200]),  # read in such slices
    st.sampled_from([0, 20, 90]),  # its first so many tokens count as instructions
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(Turn, min_size=2, max_size=7), st.sampled_from([0, 20_000, SAVED_BYTES]), st.booleans()
)
def test_whatever_was_answered_before_each_answer_is_the_cold_one(
    backend: Backend,
    small_parts: None,
    turns: list[tuple[int, int, int, int, int, int, int]],
    saved_bytes: int,
    runs_beside: bool,
) -> None:
    prompts = [np.append(text(140, b)[:n], text(m, 10 + e)) for b, n, e, m, *_ in turns]
    cold = [Conversations(backend).cold(prompt) for prompt in prompts]
    conversations = Conversations(backend, saved_bytes=saved_bytes)
    if runs_beside:
        conversations.run(text(60, 0))
    for prompt, wanted, turn in zip(prompts, cold, turns, strict=True):
        assert same(conversations.answer(prompt, *turn[4:]), wanted)
    found = conversations.go_on()
    if found is not None:
        assert same(conversations.cold(found[0]), found[1])
