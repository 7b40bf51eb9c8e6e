"""Who comes back is not read again: counted in tokens, with the bundled model."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.models.catalogue import find
from spillover.runtime.backend import Backend, KvSaver, Rows, SavedKv, Tokens
from spillover.runtime.events import Usage
from spillover.runtime.kv_cache import cache, prefix_saver
from spillover.runtime.kv_cache.memory import saved_prefix_bytes
from spillover.runtime.kv_cache.prefix_disk import LEAST_TOKENS
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.device import memory_floor
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import GREEDY, end_of, ids_of
from tests.loading import load
from tests.runtime.kv_cache.conversations import Conversations
from tests.runtime.models import close
from tests.waiting import wait_until

N_ANSWER = 2
LEFT_BYTES = memory_floor()
INSTRUCTIONS = "You are a fox who lives in a wood and tells stories to children. " * 12
OPTIONS = EngineOptions(n_parallel=2, n_prefix_cached=2, n_kv=1024, n_ctx=512, n_threads=1)


@pytest.fixture(scope="module", params=["storyteller", "storyteller-onnx"])
def model(request: pytest.FixtureRequest) -> Path:
    return Path(find(request.param).path)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    options = replace(OPTIONS, cache_dir=tmp_path_factory.mktemp("cache"), prefix_cache_mb=64)
    with LocalEngine(model, options) as engine:
        engine.wait_ready(60)
        yield engine


@pytest.fixture(scope="module")
def backend(model: Path) -> Iterator[Backend]:
    backend = load(model, "tiny", OPTIONS).backend
    yield backend
    backend.close()


def answer(engine: LocalEngine, request: GenerationRequest) -> tuple[list[int], Usage]:
    """Its tokens, and what was counted."""
    events = list(engine.stream(request))
    return ids_of(events), end_of(events).usage


def test_twenty_conversations_in_turn_read_only_what_is_new(engine: LocalEngine) -> None:
    new = np.random.RandomState(1).randint(300, 4000, (2, 20, 16))
    talks: list[list[int]] = [[] for _ in range(20)]
    for turn in range(2):
        for i, talk in enumerate(talks):
            n_before = len(talk)
            talk += new[turn, i].tolist()
            said, usage = answer(
                engine,
                GenerationRequest(
                    prompt=tuple(talk), max_tokens=N_ANSWER, ignore_eos=True, sampling=GREEDY
                ),
            )
            talk += said
            # The last token of an answer was never read.
            assert usage.cached_tokens == max(n_before - 1, 0)
    counts = engine.status().prefixes
    assert (counts.n_reused, counts.n_reused_tokens) == (20, 20 * 17)
    assert counts.n_restored > 10
    assert counts.n_dropped == 0


def test_instructions_are_read_once_for_all_conversations(engine: LocalEngine) -> None:
    system = Message(role="system", content=INSTRUCTIONS)
    n_shared = len(engine.tokenize(INSTRUCTIONS, add_special=False, parse_special=False))
    for i in range(8):
        asked = Message(role="user", content=f"Tell me story number {i}.")
        _, usage = answer(
            engine, GenerationRequest(messages=(system, asked), max_tokens=2, sampling=GREEDY)
        )
        assert usage.cached_tokens >= (n_shared if i else 0)
        assert usage.prompt_tokens < n_shared + 60


@pytest.mark.parametrize("model", ["storyteller"], indirect=True)
def test_instructions_are_not_read_again_after_a_restart(model: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, cache_dir=tmp_path)
    system = Message(role="system", content=2 * INSTRUCTIONS)
    asked = [Message(role="user", content=f"Tell me story number {i}.") for i in range(3)]
    requests = [
        GenerationRequest(messages=(system, one), max_tokens=2, sampling=GREEDY) for one in asked
    ]
    with LocalEngine(model, options) as engine:
        for request in requests[:2]:
            answer(engine, request)
        wait_until(lambda: engine.status().prefixes.n_written > 0)
        n_shared = len(engine.tokenize(system.content, add_special=False, parse_special=False))
        assert n_shared > LEAST_TOKENS
    with LocalEngine(model, options) as engine:
        _, usage = answer(engine, requests[2])
        assert usage.cached_tokens >= n_shared
        assert engine.status().prefixes.n_restored == 1


def text(n: int, salt: int) -> Tokens:
    return np.random.RandomState(salt).randint(300, 4000, n).astype(np.int32)


def test_what_conversations_share_is_saved_once(backend: Backend) -> None:
    conversations, preamble = Conversations(backend, saved_bytes=64 << 20), text(200, 0)
    prompts = [np.append(preamble, text(20, salt)) for salt in range(1, 9)]
    for prompt in prompts:
        conversations.answer(prompt, n_answer=1, n_preamble=200)
    for prompt in prompts[:3]:
        wanted = conversations.cold(prompt)
        assert close(backend, conversations.answer(prompt, n_answer=1, n_preamble=200), wanted)
        assert conversations.n_held == 219
    counts = conversations.counts
    # The preamble is a state of its own, beside one of each conversation.
    assert counts.n_saved >= 7
    bytes_per_token = counts.saved_bytes / (200 + 21 * (counts.n_saved - 1))
    saver = backend.saver
    assert saver is not None
    backend.decode([Rows(0, 0, preamble, False)])
    assert bytes_per_token < 1.1 * saver.saved_bytes(0, 0, 200) / 200


@pytest.mark.parametrize("saves_parts", [True, False])
def test_what_has_to_leave_is_saved_in_parts_where_they_take_less_time(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, *, saves_parts: bool
) -> None:
    """A whole conversation was saved at once, and running answers waited for it."""
    monkeypatch.setattr(prefix_saver, "N_PART", 64)
    assert backend.saver is not None
    kind, sizes = type(backend.saver), list[int]()
    save = kind.save

    def noted(saver: KvSaver, seq: int, start: int, end: int) -> SavedKv:
        sizes.append(end - start)
        return save(saver, seq, start, end)

    monkeypatch.setattr(kind, "save", noted)
    monkeypatch.setattr(backend.saver, "saves_parts", saves_parts)
    conversations = Conversations(backend, n_kept=1, saved_bytes=64 << 20)
    prompts = [text(150, salt) for salt in range(3)]
    for prompt in prompts:
        conversations.answer(prompt)
    assert sizes
    assert (max(sizes) <= 64) == saves_parts
    for prompt in prompts:
        wanted = conversations.cold(prompt)
        assert close(backend, conversations.answer(prompt), wanted)
        assert conversations.n_held == 149


class Moved:
    """The tokens of each call that saves, restores or copies, and of those that return memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
        self.sizes: list[int] = []
        self.discarded: list[int] = []
        assert backend.saver is not None
        kind = type(backend.saver)
        save, append, copy = kind.save, kind.append, type(backend).copy
        keep = type(backend).keep

        def saved(saver: KvSaver, seq: int, start: int, end: int) -> SavedKv:
            self.sizes.append(end - start)
            return save(saver, seq, start, end)

        def appended(saver: KvSaver, seq: int, start: int, end: int, state: SavedKv) -> bool:
            self.sizes.append(end - start)
            return append(saver, seq, start, end, state)

        def kept(backend: Backend, seq: int, n_tokens: int) -> int:
            if not backend.info.shares_cells:
                self.discarded.append(backend._runner.held[seq] - n_tokens)  # type: ignore[attr-defined]  # of ONNX
            return keep(backend, seq, n_tokens)

        def copied(backend: Backend, source: int, target: int, n_tokens: int) -> int:
            if not backend.info.shares_cells:
                self.sizes.append(n_tokens - backend._runner.held[target])  # type: ignore[attr-defined]  # of ONNX
            return copy(backend, source, target, n_tokens)

        monkeypatch.setattr(kind, "save", saved)
        monkeypatch.setattr(kind, "append", appended)
        monkeypatch.setattr(type(backend), "copy", copied)
        monkeypatch.setattr(type(backend), "keep", kept)


def test_no_running_answer_waits_for_all_of_a_long_conversation(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was restored or copied, or that had to leave for a prompt, held them up."""
    for module in (cache, prefix_saver):
        monkeypatch.setattr(module, "N_PART", 64)
    monkeypatch.setattr(cache, "N_DISCARDED", 100)
    conversations = Conversations(backend, n_kept=2, saved_bytes=64 << 20)
    prompts = [text(250, salt) for salt in range(5)]
    branch = np.append(prompts[4][:200], text(40, salt=7))  # shares what another one keeps
    *cold, branched = [conversations.cold(prompt) for prompt in [*prompts, branch]]
    conversations.run(text(20, salt=99))
    moved = Moved(monkeypatch, backend)
    for turn in range(2):
        for prompt, wanted in zip(prompts, cold, strict=True):  # they leave for each other
            assert close(backend, conversations.answer(prompt, n_answer=1), wanted)
            assert conversations.n_held == 249 * turn
    assert close(backend, conversations.answer(branch), branched)
    assert conversations.n_held == 200
    assert 0 < max(moved.sizes) <= 64
    assert max(moved.discarded, default=0) <= 100
    assert conversations.counts.n_reused_tokens == 5 * 249 + 200
    found = conversations.go_on()
    assert found is not None
    assert close(backend, conversations.cold(found[0]), found[1])


def test_saved_states_are_given_back_when_memory_is_short(backend: Backend) -> None:
    is_short, mib = False, 1 << 20

    def free_bytes() -> int:
        """What is given back becomes free; other programs have left room for a MiB of states."""
        return LEFT_BYTES + mib - conversations.counts.saved_bytes if is_short else 1 << 40

    conversations = Conversations(backend, saved_bytes=64 * mib, free_bytes=free_bytes)
    prompts = [text(100, salt) for salt in range(8)]
    for prompt in prompts:
        conversations.answer(prompt)
    n_saved = conversations.counts.n_saved
    assert conversations.counts.saved_bytes > 1.2 * mib
    is_short = True
    conversations.answer(text(20, 99), n_answer=1)
    assert 0 < conversations.counts.saved_bytes <= mib
    assert 0 < conversations.counts.n_saved < n_saved
    is_short = False
    for prompt in prompts:
        wanted = conversations.cold(prompt)
        assert close(backend, conversations.answer(prompt), wanted)


def test_a_state_for_which_the_system_has_no_memory_is_not_saved(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker used to end, and its answers with it, where a limit was what lacked."""
    conversations = Conversations(backend)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patch:
        patch.setattr(type(backend.saver), "save", refuse)
        for salt in range(4):
            conversations.answer(text(100, salt))
    assert conversations.counts.n_saved == 0
    conversations.answer(text(100, 5))
    assert conversations.counts.n_saved > 0


def test_the_prefix_cache_gets_a_share_of_what_the_model_leaves(backend: Backend) -> None:
    info, mib = backend.info, 1 << 20
    full = int(info.n_kv * info.kv_bytes_per_cell)
    auto = EngineOptions()
    assert saved_prefix_bytes(auto, info, full + 400 * mib) == 100 * mib
    assert saved_prefix_bytes(auto, info, full + (100 << 30)) == 2 << 30
    assert saved_prefix_bytes(auto, info, full // 2) == 0
    assert saved_prefix_bytes(EngineOptions(prefix_cache_mb=7), info, 0) == 7 * mib
