"""A small model that proposes tokens for a larger one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import KvFull, Rows, Tokens
from spillover.runtime.hosting.memory import held_bytes
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.draft_model import LlamaDraftModel
from spillover.runtime.options import EngineOptions
from tests import tiny_memories
from tests.loading import load
from tests.runtime.scheduling.drafting import OneByOne, answered, asked

STORYTELLER = Path(find("storyteller").path)
OPTIONS = EngineOptions(
    n_parallel=4, n_ctx=512, n_kv=1024, n_threads=1, draft_model=STORYTELLER
)  # it proposes for itself, and is nearly always right
STORY = "Once upon a time there was a fox who lived in a quiet forest."


def opened(options: EngineOptions = OPTIONS) -> LlamaBackend:
    backend = load(STORYTELLER, "storyteller", options).backend
    assert isinstance(backend, LlamaBackend)
    return backend


@pytest.fixture
def backend() -> Iterator[LlamaBackend]:
    backend = opened()
    yield backend
    backend.close()


@pytest.fixture
def draft_model(backend: LlamaBackend) -> LlamaDraftModel:
    assert backend.draft_model is not None
    return backend.draft_model


def proposed(model: LlamaDraftModel, seq: int, tokens: Tokens, n: int) -> list[int]:
    """What comes next, after it has read what it has not."""
    model.read(seq, tokens, model.n_unread(seq, tokens))
    (draft,) = model.propose([(seq, tokens)], n)
    return draft


def tokens_of(backend: LlamaBackend, text: str) -> Tokens:
    return backend.tokenize(text, add_special=False, parse_special=True)


def greedy(backend: LlamaBackend, tokens: Tokens, n: int) -> list[int]:
    """What the main model says, its prompt read as the draft model reads it."""
    backend.keep(0, 0)
    backend.decode([Rows(0, 0, tokens[:-1], False)])
    found = [int(tokens[-1])]
    for i in range(n):
        last = np.array(found[-1:], dtype=np.int32)
        backend.decode([Rows(0, len(tokens) - 1 + i, last, True)])
        found.append(int(backend.logits(0).argmax()))
    return found[1:]


def test_it_goes_on_with_the_likeliest_tokens(
    backend: LlamaBackend, draft_model: LlamaDraftModel
) -> None:
    tokens = tokens_of(backend, STORY)
    wanted = greedy(backend, tokens, 9)
    draft = proposed(draft_model, 3, tokens, 4)
    assert draft == wanted[:4]
    for n_right in (4, 2):  # all were right; then some were not, and another one came
        tokens = np.append(tokens, np.array([*draft[:n_right], 300], dtype=np.int32))
        draft = proposed(draft_model, 3, tokens, 4)
        assert draft == greedy(backend, tokens, 4)


def test_a_long_text_is_read_in_parts(backend: LlamaBackend, draft_model: LlamaDraftModel) -> None:
    tokens = np.resize(tokens_of(backend, STORY), 150)
    left = []
    for _ in range(3):
        draft_model.read(0, tokens, 64)
        left.append(draft_model.n_unread(0, tokens))
    assert left == [85, 21, 0]
    assert len(proposed(draft_model, 0, tokens, 2)) == 2


def test_another_text_may_come_under_the_same_id(
    backend: LlamaBackend, draft_model: LlamaDraftModel
) -> None:
    first, second = tokens_of(backend, STORY), tokens_of(backend, "The old dog looked at the")
    proposed(draft_model, 0, first, 3)
    assert proposed(draft_model, 0, second, 3) == greedy(backend, second, 3)


def test_it_begins_again_after_a_call_that_failed(
    backend: LlamaBackend, draft_model: LlamaDraftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(backend, STORY)
    proposed(draft_model, 1, tokens, 3)
    with monkeypatch.context() as patch:

        def full(batch: list[Rows]) -> list[int]:
            raise KvFull

        patch.setattr(draft_model._context, "decode", full)
        with pytest.raises(KvFull):
            draft_model.read(0, tokens, 5)
    assert draft_model.n_unread(1, tokens) == len(tokens) - 1
    assert proposed(draft_model, 0, tokens, 3) == greedy(backend, tokens, 3)


def test_room_is_made_by_those_that_were_not_asked_for(
    backend: LlamaBackend, draft_model: LlamaDraftModel
) -> None:
    tokens = np.resize(tokens_of(backend, STORY), 401)
    for seq in (0, 1):
        draft_model.read(seq, tokens, 400)
    assert not draft_model.has_room(300, [0, 1])
    assert draft_model.n_unread(0, tokens) == 0
    assert draft_model.has_room(300, [1])
    assert draft_model.n_unread(0, tokens) == 400
    assert draft_model.n_unread(1, tokens) == 0


def test_it_forgets_what_the_large_model_forgets(
    backend: LlamaBackend, draft_model: LlamaDraftModel
) -> None:
    tokens = tokens_of(backend, STORY)
    proposed(draft_model, 0, tokens, 3)
    backend.keep(0, 4)
    assert draft_model.n_unread(0, tokens) == len(tokens) - 5
    backend.keep(0, 0)
    assert draft_model.n_unread(0, tokens) == len(tokens) - 1


def test_streams_that_do_not_fit_beside_each_other_are_not_read_for_ever() -> None:
    """Each one made the draft model forget the others, and it never proposed anything."""
    backend = opened(msgspec.structs.replace(OPTIONS, n_ctx=256, n_kv=256))
    assert backend.draft_model is not None
    read, n_read = backend.draft_model.read, []

    def count(seq: int, tokens: Tokens, n: int) -> None:
        n_read.append(min(n, len(tokens)))
        read(seq, tokens, n)

    prompt = np.resize(tokens_of(backend, STORY), 150)  # its cells are shared in the main cache
    jobs = [asked(i, prompt, max_tokens=25) for i in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.draft_model, "read", count)
        assert all(one.end is not None for one in answered(backend, jobs, speculates=True))
    assert sum(n_read) < 3 * 175 + 64
    backend.close()


def test_its_memory_counts(backend: LlamaBackend, draft_model: LlamaDraftModel) -> None:
    alone = opened(msgspec.structs.replace(OPTIONS, draft_model=None))
    assert backend.info.kv_bytes_per_cell == 2 * alone.info.kv_bytes_per_cell
    assert backend.info.draft_model_bytes == draft_model.n_bytes == alone.info.size_bytes
    assert alone.info.draft_model_bytes == 0
    alone.close()


@pytest.mark.parametrize("write", [tiny_memories.write_windowed, tiny_memories.write_recurrent])
def test_it_is_not_loaded_for_a_model_that_cannot_check(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / "model.gguf")
    plans = []
    for options in (OPTIONS, msgspec.structs.replace(OPTIONS, draft_model=None)):
        loaded = load(path, "tiny", options)
        assert loaded.backend.draft_model is None
        warnings = " ".join(loaded.card.warnings)
        assert ("draft_model has no effect" in warnings) == (options is OPTIONS)
        plans.append((loaded.card.kv_bytes, loaded.card.n_kv))
        loaded.backend.close()
    assert plans[0] == plans[1]  # no memory is kept for it


def test_it_is_not_ignored_silently_for_an_onnx_model() -> None:
    loaded = load(Path(find("storyteller-onnx").path), "storyteller", OPTIONS)
    assert "draft_model" in " ".join(loaded.card.warnings)
    loaded.backend.close()


def test_its_weights_count_as_held(backend: LlamaBackend) -> None:
    loaded = load(STORYTELLER, "storyteller", OPTIONS)
    card = loaded.card
    without = msgspec.structs.replace(card, draft_model_bytes=0)
    assert held_bytes(card).host - held_bytes(without).host == backend.info.draft_model_bytes > 0
    loaded.backend.close()


def test_answers_are_the_same_with_a_draft_model(backend: LlamaBackend) -> None:
    OneByOne(backend)
    prompt = tokens_of(backend, STORY)
    plain, drafted = (
        answered(backend, [asked(1, prompt)], speculates=speculates)[0]
        for speculates in (False, True)
    )
    assert drafted.seen == plain.seen
    assert drafted.n_accepted > 20


def test_a_draft_model_of_no_use_is_warned_of(tmp_path: Path) -> None:
    windowed = tiny_memories.write_windowed(tmp_path / "windowed.gguf")
    backend = opened(msgspec.structs.replace(OPTIONS, draft_model=windowed))
    assert backend.draft_model is None
    assert "draft_model" in " ".join(backend.info.warnings)
    backend.close()


def test_without_speculation_it_is_not_even_loaded() -> None:
    """That it has no effect then used to be kept to itself."""
    for options in (OPTIONS, msgspec.structs.replace(OPTIONS, draft_model=None)):
        off = msgspec.structs.replace(options, speculation="off")
        loaded = load(STORYTELLER, "storyteller", off)
        assert loaded.backend.draft_model is None
        warnings = " ".join(loaded.card.warnings)
        assert ("draft_model has no effect: speculation is off" in warnings) == (options is OPTIONS)
        loaded.backend.close()
