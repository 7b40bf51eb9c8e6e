"""`deterministic = true`: an answer does not depend on what was asked before it or beside it."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from spillover.runtime.events import Delta, TokenLogprob
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
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


def answer(engine: LocalEngine, request: GenerationRequest) -> list[TokenLogprob]:
    """Each token with the exact probability that it had."""
    events = engine.stream(request)
    return [chosen for e in events if isinstance(e, Delta) for chosen in e.logprobs]


@pytest.mark.parametrize("asked", ASKED, ids=["greedy", "sampled"])
def test_equal_requests_are_answered_equally_whatever_runs_beside_them(
    any_model_path: Path, tmp_path: Path, asked: GenerationRequest
) -> None:
    options = msgspec.structs.replace(OPTIONS, cache_dir=tmp_path)
    with LocalEngine(any_model_path, options) as engine:
        first = answer(engine, asked)
    with LocalEngine(any_model_path, options) as engine, ThreadPoolExecutor(16) as threads:
        requests = [request for other in OTHERS for request in (other, asked) * 3]
        answers = list(threads.map(lambda request: answer(engine, request), requests))
        both = zip(requests, answers, strict=True)
        again = [found for request, found in both if request is asked]
        again.append(answer(engine, asked))
    assert len(first) == 24
    assert again == [first] * len(again)


def test_an_answer_that_is_continued_in_another_worker_is_the_same(
    any_model_path: Path, tmp_path: Path
) -> None:
    options = msgspec.structs.replace(OPTIONS, cache_dir=tmp_path)
    with LocalEngine(any_model_path, options) as engine:
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
