"""`deterministic = true`: an answer does not depend on what was asked before it or beside it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from spillover.runtime.events import Delta, TokenLogprob
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, JsonSchema
from spillover.runtime.sampling import Sampling
from tests.answers import ask, worker_of

OPTIONS = EngineOptions(deterministic=True, n_parallel=4, n_ctx=512, n_threads=1)
STORY = "Once upon a time there was a fox who lived in a quiet forest. " * 12
ASKED = [
    ask(STORY, sampling, max_tokens=24, logprobs=3, ignore_eos=True)
    for sampling in (Sampling(temperature=0), Sampling(temperature=1, seed=3))
]
OTHERS = (
    ask("A hare ran.", max_tokens=60, ignore_eos=True, n=2),
    ask(STORY + "The fox", max_tokens=40, ignore_eos=True),
    ask(STORY[:200], max_tokens=5),
)
FOX = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(any_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    options = msgspec.structs.replace(OPTIONS, cache_dir=tmp_path_factory.mktemp("cache"))
    with LocalEngine(any_model_path, options) as engine:
        yield engine


def answer(engine: LocalEngine, request: GenerationRequest) -> list[TokenLogprob]:
    """Each token with the exact probability that it had."""
    events = engine.stream(request)
    return [chosen for e in events if isinstance(e, Delta) for chosen in e.logprobs]


def test_equal_requests_are_answered_equally_whatever_runs_beside_them(
    any_model_path: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    with LocalEngine(any_model_path, msgspec.structs.replace(OPTIONS, cache_dir=tmp_path)) as alone:
        first = [answer(alone, asked) for asked in ASKED]
    requests = [request for other in OTHERS for request in (other, *ASKED) * 2]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda request: answer(engine, request), requests))
    for asked, wanted in zip(ASKED, first, strict=True):
        both = zip(requests, answers, strict=True)
        again = [found for request, found in both if request is asked]
        again.append(answer(engine, asked))
        assert len(wanted) == 24
        assert again == [wanted] * 7


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0),
        Sampling(seed=1, typical_p=0.8, repeat_penalty=1.2, presence_penalty=0.5),
        Sampling(seed=1, dry_multiplier=0.8, xtc_probability=0.5, frequency_penalty=0.3),
        Sampling(temperature=0, repeat_penalty=1.3, dry_multiplier=1.0),
    ],
)
@pytest.mark.parametrize("response_format", [None, JsonSchema(schema=FOX)], ids=["text", "json"])
def test_every_sampler_repeats_itself_with_its_seed(
    engine: LocalEngine, sampling: Sampling, response_format: JsonSchema | None
) -> None:
    request = ask(sampling=sampling, response_format=response_format, max_tokens=24, logprobs=3)
    assert answer(engine, request) == answer(engine, request) != []


def test_an_answer_that_is_continued_in_another_worker_is_the_same(engine: LocalEngine) -> None:
    whole = answer(engine, ASKED[0])
    chosen: list[TokenLogprob] = []
    for event in engine.stream(ASKED[0]):
        if isinstance(event, Delta):
            chosen += event.logprobs
            if len(chosen) == 8:
                os.kill(worker_of(engine), signal.SIGKILL)
    assert chosen == whole


def test_it_overrides_what_depends_on_time_and_on_others() -> None:
    given = EngineOptions(deterministic=True, n_parallel=4, execution_provider="cuda", n_threads=3)
    settled = given.settled()
    assert (settled.n_parallel, settled.n_prefix_cached, settled.second_layout) == (1, 0, "off")
    assert not settled.adapt_threads
    assert (settled.execution_provider, settled.n_threads) == ("cuda", 3)
    assert EngineOptions(deterministic=True).settled().execution_provider == "cpu"
    assert EngineOptions().settled() == EngineOptions()
