"""A small model that proposes tokens for a larger one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import KvFull, Rows, Tokens
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.draft_model import MOST_READ, LlamaDraftModel
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
    (draft,) = draft_model.propose([(3, tokens)], 4)
    assert draft == wanted[:4]
    for n_right in (4, 2):  # all were right; then some were not, and another one came
        tokens = np.append(tokens, np.array([*draft[:n_right], 300], dtype=np.int32))
        (draft,) = draft_model.propose([(3, tokens)], 4)
        assert draft == greedy(backend, tokens, 4)


def test_a_long_text_is_read_in_parts(backend: LlamaBackend, draft_model: LlamaDraftModel) -> None:
    tokens = np.resize(tokens_of(backend, STORY), 2 * MOST_READ + 10)
    assert [draft_model.propose([(0, tokens)], 2) for _ in range(2)] == [[[]], [[]]]
    ((*draft,),) = draft_model.propose([(0, tokens)], 2)
    assert len(draft) == 2


def test_another_text_may_come_under_the_same_id(
    backend: LlamaBackend, draft_model: LlamaDraftModel
) -> None:
    first, second = tokens_of(backend, STORY), tokens_of(backend, "The old dog looked at the")
    draft_model.propose([(0, first)], 3)
    (draft,) = draft_model.propose([(0, second)], 3)
    assert draft == greedy(backend, second, 3)


def test_without_room_it_proposes_nothing_and_begins_again(
    backend: LlamaBackend, draft_model: LlamaDraftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(backend, STORY)
    with monkeypatch.context() as patch:

        def full(batch: list[Rows]) -> list[int]:
            raise KvFull

        patch.setattr(draft_model._context, "decode", full)
        assert draft_model.propose([(0, tokens)], 3) == [[]]
    assert draft_model.propose([(0, tokens)], 3) == [greedy(backend, tokens, 3)]


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
    backend = opened(msgspec.structs.replace(OPTIONS, speculation="off"))
    assert backend.draft_model is None
    backend.close()
