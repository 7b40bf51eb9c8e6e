"""The tables of a vocabulary: when they are made, and what odd vocabularies do to them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spillover.runtime.request import Regex
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.structured_output.last_use import RECENT_S, LastUse
from spillover.runtime.structured_output.vocabulary import MAX_ALIKE, Vocabulary
from spillover.runtime.worker import constraint_compiler as compilers
from spillover.runtime.worker.constraint_compiler import ConstraintCompiler
from spillover.runtime.worker.loading import LoadedModel
from tests.answers import ask


def test_a_use_of_structured_output_is_recent_for_a_month(tmp_path: Path) -> None:
    now = [1e9]
    last_use = LastUse(tmp_path, "model", clock=lambda: now[0])
    assert not last_use.is_recent()
    last_use.note()
    assert LastUse(tmp_path, "model", clock=lambda: now[0]).is_recent()
    assert not LastUse(tmp_path, "another", clock=lambda: now[0]).is_recent()
    now[0] += RECENT_S
    assert not last_use.is_recent()


def compiled(compiler: ConstraintCompiler, request: Any) -> None:
    """Return when the form of *request* is compiled."""
    is_done = threading.Event()
    prompt = np.array([1], dtype=np.int32)
    job = Job(id=1, request=request, prompt=prompt, seed=1, pipelines=())
    compiler.compile(job, "", None, lambda *_: is_done.set(), lambda *_: is_done.set())
    assert is_done.wait(30)


def test_tables_are_made_before_they_are_needed_after_a_recent_use(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "SLOW_VOCABULARY", loaded.backend.info.n_vocab)
    made = threading.Event()
    prepare = ConstraintFactory.prepare

    def prepare_and_tell(factory: ConstraintFactory) -> None:
        prepare(factory)
        made.set()

    monkeypatch.setattr(ConstraintFactory, "prepare", prepare_and_tell)
    last_use = LastUse(tmp_path, "model")
    first = ConstraintCompiler(loaded.backend, (), last_use)
    first.prepare()
    assert first._thread is None
    compiled(first, ask(response_format=Regex(pattern="a")))
    ConstraintCompiler(loaded.backend, (), last_use).prepare()
    assert made.wait(30)


def test_a_small_vocabulary_waits_for_its_first_format(loaded: LoadedModel, tmp_path: Path) -> None:
    last_use = LastUse(tmp_path, "model")
    last_use.note()
    compiler = ConstraintCompiler(loaded.backend, (), last_use)
    compiler.prepare()
    assert compiler._thread is None


def test_many_tokens_with_the_same_bytes_are_allowed_up_to_a_limit() -> None:
    """Each was compared with each: a vocabulary of one word took a minute, and nothing else ran."""
    tokens = [b"a", *[b"same"] * 5_000, b"<end>"]
    backend: Any = SimpleNamespace(
        info=SimpleNamespace(n_vocab=len(tokens)),
        token_bytes=lambda token: tokens[token],
        control_text=lambda token: "",
        is_eog=lambda token: token == len(tokens) - 1,
        tokenize=lambda text, **_: np.array([], dtype=np.int32),
    )
    factory = ConstraintFactory(backend)
    constraint = factory.from_start(Regex(pattern="same"))()
    n_allowed = sum(constraint.allows(token) for token in range(len(tokens)))
    assert n_allowed == MAX_ALIKE
    assert isinstance(factory.vocabulary, Vocabulary)
