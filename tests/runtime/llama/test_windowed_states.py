"""Copies of what a model with a sliding window holds, when cells that the window has passed hold
something else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from spillover.runtime.backend import Logits, Rows
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from tests import tiny_memories
from tests.runtime.kv_cache.conversations import same, text

N = 340
TOKENS = text(600, salt=1)
CONFIG = LlamaConfig(
    n_kv=2048, n_seq=4, n_batch=256, n_threads=1, n_gpu_layers=0, kv_cache_type="f16",
    use_extra_bufts=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    path = tiny_memories.write_windowed(tmp_path_factory.mktemp("tiny") / "model.gguf")
    backend = LlamaBackend(path, CONFIG)
    yield backend
    backend.close()


@pytest.fixture
def backend(opened: LlamaBackend) -> LlamaBackend:
    """Its sequence 0 holds N tokens and has lost some positions of the windows."""
    for seq in range(CONFIG.n_seq):
        opened.keep(seq, 0)
    read(opened, 1, 0, 20)
    read(opened, 0, 0, 300)
    opened.keep(1, 0)
    for position in range(300, N):  # an answer takes the cells that the window has passed
        read(opened, 0, position, position + 1)
    assert not opened.saver.can_save(0, 0, 300)
    assert not opened.saver.can_save(0, 4, N)
    assert opened.saver.can_save(0, N - 20, N)
    return opened


def read(backend: LlamaBackend, seq: int, start: int, end: int) -> Logits:
    for first in range(start, end, 64):
        last = min(first + 64, end)
        backend.decode([Rows(seq, first, TOKENS[first:last], last == end)])
    return backend.logits(0).copy()


def test_what_is_left_continues_the_text_and_cannot_be_cut(backend: LlamaBackend) -> None:
    """It was saved in a form that was refused when it was to be restored."""
    saver = backend.saver
    assert saver.can_save(0, 0, N)
    state = saver.save(0, 0, N)
    assert state.nbytes == saver.saved_bytes(0, 0, N)
    assert not saver.append(1, 0, N - 1, state)
    assert saver.append(1, 0, N, state)
    wanted = read(backend, 2, 0, N + 1)
    assert same(read(backend, 1, N, N + 1), wanted)
    assert backend.keep(1, N - 4) == 0


def test_it_is_read_behind_it_beside_others(
    backend: LlamaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """One such prompt turned reading beside answers off for good."""
    assert backend.reader is not None
    wanted = read(backend, 3, 0, N + 60)
    for start, end in ((N, N + 40), (N + 40, N + 60)):
        ended = threading.Event()
        batch = [Rows(0, start, TOKENS[start:end], True)]
        with caplog.at_level(logging.WARNING):
            assert backend.reader.start(batch, ended.set)
            assert ended.wait(60)
            assert backend.reader.take([0]), caplog.text
    assert same(backend.logits(0), wanted)
    read(backend, 2, 0, N + 60)
    assert same(read(backend, 0, N + 60, N + 61), read(backend, 2, N + 60, N + 61))
