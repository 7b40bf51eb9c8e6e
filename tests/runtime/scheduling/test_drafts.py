"""Drafts change how fast an answer comes, and nothing else about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import Backend, KvFull, Rows, Tokens
from spillover.runtime.events import Delta, Finished
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Regex
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling import speculation
from spillover.runtime.structured_output.factory import ConstraintFactory
from tests import tiny_memories
from tests.answers import GREEDY
from tests.loading import load
from tests.runtime.scheduling.drafting import (
    Answer,
    OneByOne,
    Oracle,
    answered,
    answers,
    asked,
    new_loop,
)

STORY = "Once upon a time there was a fox who lived in a quiet forest."
OTHERS = ("A hare ran to the river.", "The old dog looked at the moon and")
OPTIONS = EngineOptions(n_parallel=4, n_ctx=1024, n_kv=4096, n_threads=1)
Draft = Callable[[list[tuple[Tokens, Answer]]], None]


@pytest.fixture(params=["storyteller", "storyteller-onnx"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = load(Path(find(request.param).path), request.param, OPTIONS).backend
    yield backend
    backend.close()


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Draft:
    """Makes drafts from the answers to some prompts."""

    def draft_from(known: list[tuple[Tokens, Answer]]) -> None:
        pairs = [(prompt, answer.ids) for prompt, answer in known]
        monkeypatch.setattr(speculation, "Drafter", lambda: Oracle(pairs))

    return draft_from


def tokens_of(backend: Backend, text: str) -> Tokens:
    return backend.tokenize(text, add_special=False, parse_special=True)


def with_and_without(
    backend: Backend, draft: Draft, sampling: Sampling = GREEDY, text: str = STORY, **fields: Any
) -> tuple[Answer, Answer]:
    """The same request with drafts and without, rounded alike."""
    OneByOne(backend)
    prompt = tokens_of(backend, text)
    n_ctx = fields.pop("n_ctx", 1024)
    make = fields.pop("make", lambda: None)
    (plain,) = answered(
        backend, [asked(1, prompt, sampling, constraint=make(), **fields)],
        n_ctx=n_ctx, speculates=False,
    )  # fmt: skip
    draft([(prompt, plain)])
    (drafted,) = answered(
        backend, [asked(1, prompt, sampling, constraint=make(), **fields)],
        n_ctx=n_ctx, speculates=True,
    )  # fmt: skip
    return drafted, plain


@pytest.mark.parametrize(
    ("sampling", "fields"),
    [
        (GREEDY, {}),
        (Sampling(temperature=0.9), {}),
        (Sampling(temperature=0.9, top_k=0, top_p=1, min_p=0, xtc_probability=0.5), {}),
        (Sampling(temperature=0, repeat_penalty=1.3, presence_penalty=0.4), {}),
        (Sampling(temperature=1, frequency_penalty=0.5, dry_multiplier=0.8), {}),
        (GREEDY, {"logprobs": 3}),
        (Sampling(temperature=1), {"logprobs": 2, "post_sampling_probs": True}),
        (Sampling(temperature=0.8, logit_bias={300: -100.0}), {"ignore_eos": False}),
    ],
)
def test_the_answer_is_the_same_with_and_without(
    backend: Backend, draft: Draft, sampling: Sampling, fields: dict[str, Any]
) -> None:
    drafted, plain = with_and_without(backend, draft, sampling, **fields)
    assert drafted.seen == plain.seen
    timings = drafted.finished.timings
    assert 0 < timings.n_accepted < timings.n_drafted
    assert plain.finished.timings.n_drafted == 0


def test_a_constrained_answer_is_the_same(backend: Backend, draft: Draft) -> None:
    form = Regex(pattern="The (big|small|old) (fox|dog) (ran|sat)[a-z ]{20,30}\\.")
    make = ConstraintFactory(backend).from_start(form)
    drafted, plain = with_and_without(backend, draft, make=make, ignore_eos=False)
    assert drafted.seen == plain.seen
    assert re.fullmatch(form.pattern, drafted.text)
    assert drafted.n_accepted > 0


def test_an_answer_ends_inside_a_draft(backend: Backend, draft: Draft) -> None:
    for max_tokens in (1, 2, 5, 6, 7, 8, 9, 12):
        drafted, plain = with_and_without(backend, draft, max_tokens=max_tokens)
        assert drafted.seen == plain.seen
        assert drafted.finished.usage.completion_tokens == max_tokens
    prompt, whole = tokens_of(backend, STORY), plain.text
    for n_ctx in (len(prompt) + 7, len(prompt) + 10):
        drafted, plain = with_and_without(backend, draft, n_ctx=n_ctx, max_tokens=None)
        assert drafted.seen == plain.seen
        assert drafted.finished.reason == "length"
    for stop in (whole[8:11], whole[15:20]):
        drafted, plain = with_and_without(backend, draft, stop=(stop,))
        assert drafted.seen == plain.seen
        assert drafted.finished.stop == stop


def test_an_answer_that_ends_by_itself_is_the_same(backend: Backend, draft: Draft) -> None:
    chat = f"<|im_start|>user\n{STORY}<|im_end|>\n<|im_start|>assistant\n"
    drafted, plain = with_and_without(backend, draft, text=chat, ignore_eos=False, max_tokens=400)
    assert drafted.seen == plain.seen
    assert drafted.n_accepted > 0


def test_the_next_turn_begins_with_what_was_accepted(backend: Backend, draft: Draft) -> None:
    OneByOne(backend)
    prompt = tokens_of(backend, STORY)
    turns: list[list[Answer]] = []
    for speculates in (False, True):
        loop = new_loop(backend, speculates=speculates)
        found = answers(loop, [asked(1, prompt, max_tokens=17)])
        draft([(prompt, found[0])])
        more = tokens_of(backend, STORY + found[0].text + OTHERS[0])
        found += answers(loop, [asked(2, more, max_tokens=2)])
        loop.stop()
        turns.append(found)
    assert [answer.seen for answer in turns[1]] == [answer.seen for answer in turns[0]]
    assert turns[1][0].n_accepted > 0
    assert turns[1][1].finished.usage.cached_tokens > len(prompt)


def agree(found: Answer, wanted: Answer) -> bool:
    """The same but for a near tie: rounding depends on how many tokens a call has."""
    both = zip(found.logprobs, wanted.logprobs, strict=True)
    ties = [abs(a.logprob - b.logprob) for a, b in both if a.token_id != b.token_id]
    return not ties or ties[0] < 0.5


def test_streams_that_run_together_have_drafts_of_their_own(backend: Backend, draft: Draft) -> None:
    prompts = [tokens_of(backend, text) for text in (STORY, *OTHERS)]
    jobs = [asked(i, prompt, logprobs=1) for i, prompt in enumerate(prompts)]
    alone = [answered(backend, [job], speculates=False)[0] for job in jobs]
    draft(list(zip(prompts, alone, strict=True)))
    together = answered(backend, jobs, speculates=True)
    assert all(map(agree, together, alone))
    assert all(answer.n_accepted > 0 for answer in together)


def test_drafts_take_no_cells_that_others_need(draft: Draft) -> None:
    options = EngineOptions(n_parallel=4, n_ctx=128, n_kv=144, n_threads=1)
    backend = load(Path(find("storyteller").path), "storyteller", options).backend
    prompts = [tokens_of(backend, text) for text in (STORY, *OTHERS)]
    jobs = [asked(i, prompt, logprobs=1, max_tokens=60) for i, prompt in enumerate(prompts)]
    alone = [answered(backend, [job], n_ctx=128, speculates=False)[0] for job in jobs]
    draft(list(zip(prompts, alone, strict=True)))
    together = answered(backend, jobs, n_ctx=128, speculates=True)
    assert [len(answer.ids) for answer in together] == [60, 60, 60]
    assert all(map(agree, together, alone))
    backend.close()


def test_where_the_cells_are_scattered_steps_go_on_without_drafts(
    backend: Backend, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tokens_of(backend, STORY)
    (plain,) = answered(backend, [asked(1, prompt)], speculates=False)
    draft([(prompt, plain)])
    real, n_refused = backend.decode, 0

    def decode(batch: Sequence[Rows]) -> None:
        nonlocal n_refused
        if any(rows.wants_all_logits for rows in batch):
            n_refused += 1
            raise KvFull
        real(batch)

    monkeypatch.setattr(backend, "decode", decode)
    (drafted,) = answered(backend, [asked(1, prompt)], speculates=True)
    assert drafted.seen == plain.seen
    assert n_refused == 1


def test_a_cancelled_answer_leaves_the_cache_as_its_tokens_say(
    backend: Backend, draft: Draft
) -> None:
    OneByOne(backend)
    prompt = tokens_of(backend, STORY)
    (plain,) = answered(backend, [asked(1, prompt, max_tokens=300)], speculates=False)
    draft([(prompt, plain)])
    loop = new_loop(backend, speculates=True)
    loop.scheduler.submit(asked(2, prompt, max_tokens=300, reuse_prefix=False))
    begun = Answer()
    while begun.end is None:
        _, event = loop.events.get(timeout=60)
        begun.take(event)
        if isinstance(event, Delta) and len(begun.ids) > 30:
            loop.scheduler.cancel(2)
    assert begun.ids == plain.ids[: len(begun.ids)]
    more = asked(3, tokens_of(backend, STORY + begun.text), max_tokens=2)
    (next_one,) = answers(loop, [more])
    loop.stop()
    assert isinstance(next_one.end, Finished)
    assert next_one.finished.usage.completion_tokens == 2


def test_an_answer_that_copies_its_prompt_is_drafted_from_it(backend: Backend) -> None:
    OneByOne(backend)
    make = ConstraintFactory(backend).from_start(Regex(pattern=re.escape(STORY)))
    prompt = tokens_of(backend, f"{STORY} {OTHERS[0]} {STORY} ")
    answers_ = [
        answered(backend, [asked(1, prompt, constraint=make())], speculates=speculates)[0]
        for speculates in (False, True)
    ]
    assert answers_[1].seen == answers_[0].seen
    assert answers_[1].text == STORY
    assert answers_[1].n_accepted > 0


@pytest.mark.parametrize(
    "write",
    [tiny_memories.write_windowed, tiny_memories.write_hybrid, tiny_memories.write_recurrent],
)
def test_what_cannot_be_cut_anywhere_checks_no_drafts(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    backend = load(write(tmp_path / "model.gguf"), "tiny", OPTIONS).backend
    assert not backend.info.can_check
    backend.close()
