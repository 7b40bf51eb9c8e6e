"""Prompts that are read in a thread of their own, while the main context goes on."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.runtime.backend import (
    DecodeAborted,
    DecodeFailed,
    KvFull,
    Logits,
    Rows,
    SavedKv,
    Tokens,
)
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.prefill import prompt_reader
from spillover.runtime.llama.prefill.context import PrefillContext
from spillover.runtime.llama.prefill.prompt_reader import LlamaPromptReader
from spillover.runtime.sampling import Sampling
from tests import tiny_gguf, tiny_models
from tests.gguf_edit import with_numbers
from tests.runtime.gate import Gate

CONFIG = LlamaConfig(
    n_kv=4096, n_seq=6, n_batch=512, n_threads=1, n_gpu_layers=0, kv_cache_type="f16",
    use_extra_bufts=True,
)  # fmt: skip


@pytest.fixture(scope="module", params=["same weights", "second layout"])
def opened(request: pytest.FixtureRequest, model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(model_path, CONFIG)
    if request.param == "second layout":
        backend.read_prompts_apart()
    yield backend
    backend.close()


@pytest.fixture
def backend(opened: LlamaBackend) -> LlamaBackend:
    """With an empty KV cache, and nothing in the second context."""
    for seq in range(CONFIG.n_seq):
        opened.keep(seq, 0)
    opened._prefills._same.close()
    return opened


@pytest.fixture
def small(model_path: Path) -> Iterator[LlamaBackend]:
    """With few KV cells."""
    backend = LlamaBackend(model_path, replace(CONFIG, n_kv=512))
    yield backend
    backend.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def reader_of(backend: LlamaBackend) -> LlamaPromptReader:
    assert backend.reader is not None
    return backend.reader


def prompt(n: int, salt: int = 0) -> Tokens:
    return (300 + (np.arange(n, dtype=np.int32) * (7 + salt)) % 997).astype(np.int32)


def parts(seq: int, tokens: Tokens, size: int = 512) -> Iterator[Rows]:
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        yield Rows(seq, start, part, start + len(part) == len(tokens))


def start(backend: LlamaBackend, batch: Sequence[Rows]) -> threading.Event:
    """Begin to read; the event is set when it has ended."""
    ended = threading.Event()
    assert reader_of(backend).start(batch, ended.set)
    return ended


def read_beside(backend: LlamaBackend, batch: Sequence[Rows]) -> list[Logits]:
    assert start(backend, batch).wait(60)
    assert reader_of(backend).take([rows.seq for rows in batch])
    n_outputs = sum(rows.wants_logits for rows in batch)
    return [backend.logits(output).copy() for output in range(n_outputs)]


def read_here(backend: LlamaBackend, seq: int, tokens: Tokens) -> Logits:
    """In the main context, 31 tokens at a time, which no second layout takes."""
    for rows in parts(seq, tokens, 31):
        backend.decode([rows])
    return backend.logits(0).copy()


def after(backend: LlamaBackend, seq: int, n: int) -> Logits:
    """The logits after one more token: what the main context knows of the first *n*."""
    backend.decode([Rows(seq, n, prompt(1), True)])
    return backend.logits(0).copy()


def last_read_by(backend: LlamaBackend) -> PrefillContext:
    assert isinstance(backend._answered, PrefillContext)
    return backend._answered


def near(a: Logits, b: Logits) -> bool:
    return bool(np.sqrt(((a - b) ** 2).mean()) < 0.055 * a.std())


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 700, 1900])
def test_what_was_read_beside_is_what_the_main_context_would_have_read(
    backend: LlamaBackend, n: int
) -> None:
    tokens = prompt(n)
    for rows in parts(1, tokens):
        found = read_beside(backend, [rows])
    wanted = read_here(backend, 0, tokens)
    assert near(found[-1], wanted)
    assert near(after(backend, 1, n), after(backend, 0, n))


def test_prompts_are_read_together(backend: LlamaBackend) -> None:
    texts = [prompt(n, salt=n) for n in (20, 150, 90)]
    read_beside(backend, [Rows(1, 0, texts[1][:60], False)])
    found = read_beside(
        backend,
        [
            Rows(0, 0, texts[0], True),
            Rows(1, 60, texts[1][60:120], False),
            Rows(2, 0, texts[2], True),
        ],
    )
    found.insert(1, read_beside(backend, [Rows(1, 120, texts[1][120:], True)])[0])
    for seq, tokens in enumerate(texts):
        assert near(found[seq], read_here(backend, 4, tokens))
        assert near(after(backend, seq, len(tokens)), after(backend, 4, len(tokens)))
        backend.keep(4, 0)


def test_a_prompt_is_read_after_a_prefix_that_the_main_context_holds(
    backend: LlamaBackend,
) -> None:
    tokens = prompt(400)
    read_here(backend, 0, tokens[:300])
    assert backend.copy(0, 1, 290) == 290
    (found,) = read_beside(backend, [Rows(1, 290, tokens[290:], True)])
    backend.keep(0, 0)
    assert near(found, read_here(backend, 0, tokens))


def test_a_long_prefix_is_fetched_in_parts_between_which_the_main_context_goes_on(
    backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_reader, "N_PART", 64)
    sizes, save = list[int](), LlamaContext.save

    def noted(context: LlamaContext, seq: int, start: int, end: int) -> SavedKv:
        if context is backend._main:
            sizes.append(end - start)
        return save(context, seq, start, end)

    tokens, others = prompt(400), prompt(200, salt=3)
    read_here(backend, 0, tokens[:300])
    read_here(backend, 2, others[:100])
    monkeypatch.setattr(LlamaContext, "save", noted)
    batch = [Rows(0, 300, tokens[300:], True), Rows(2, 100, others[100:], True)]
    n_fetches = 0
    while True:
        assert start(backend, batch).wait(60)
        if reader_of(backend).take([0, 2]):
            break
        n_fetches += 1
        read_here(backend, 4, tokens[:31])
        backend.keep(4, 0)
    found = [backend.logits(output).copy() for output in range(2)]
    assert (sum(sizes), max(sizes), n_fetches) == (400, 64, 6)
    assert near(found[0], read_here(backend, 1, tokens))
    assert near(found[1], read_here(backend, 3, others))
    assert near(after(backend, 0, 400), after(backend, 1, 400))


def test_a_sequence_that_was_cut_goes_on_with_other_words(backend: LlamaBackend) -> None:
    first, second = prompt(300), np.append(prompt(120), prompt(150, salt=5))
    read_beside(backend, [Rows(0, 0, first[:200], False)])
    assert backend.keep(0, 120) == 120
    (found,) = read_beside(backend, [Rows(0, 120, second[120:], True)])
    assert near(found, read_here(backend, 1, second))


def test_the_main_context_decodes_while_a_prompt_is_read(backend: LlamaBackend, gate: Gate) -> None:
    running, tokens = prompt(60, salt=3), prompt(400)
    wanted = read_here(backend, 0, running)
    backend.keep(0, 40)
    ended = start(backend, [Rows(1, 0, tokens, True)])
    assert gate.entered.wait(60)
    for position in range(40, 60):
        backend.decode([Rows(0, position, running[position : position + 1], True)])
        assert not ended.is_set()
    assert near(backend.logits(0), wanted)
    gate.opened.set()
    assert reader_of(backend).take([1])
    assert near(backend.logits(0), read_here(backend, 2, tokens))


def priority_of_the_reader(backend: LlamaBackend, gate: Gate, held_s: float = 0.0) -> int:
    """Its niceness beyond that of this thread, while it reads some tokens."""
    gate.entered.clear()
    gate.opened.clear()
    ended = start(backend, [Rows(1, 0, prompt(5), True)])
    assert gate.entered.wait(60)
    (thread,) = (t for t in threading.enumerate() if t.name == "prompt reader")
    assert thread.native_id is not None
    found = os.getpriority(os.PRIO_PROCESS, thread.native_id)
    time.sleep(held_s)
    gate.opened.set()
    assert ended.wait(60)
    reader_of(backend).take([])
    return found - os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_the_reader_lets_answers_have_the_cores_first_unless_others_take_them(
    model_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LlamaBackend(model_path, CONFIG)
    try:
        assert priority_of_the_reader(backend, gate) > 0
        monkeypatch.setattr(reader_of(backend), "_is_undisturbed", lambda: False)
        assert priority_of_the_reader(backend, gate) == 0
        monkeypatch.setattr(reader_of(backend), "_is_undisturbed", lambda: True)
        assert priority_of_the_reader(backend, gate, held_s=0.8) > 0, "others come meanwhile"
        assert priority_of_the_reader(backend, gate) == 0, "they were noticed"
    finally:
        gate.opened.set()
        backend.close()


def test_decoding_leaves_half_of_the_threads_to_the_reader(model_path: Path, gate: Gate) -> None:
    backend = LlamaBackend(model_path, replace(CONFIG, n_threads=4, adapt_threads=False))
    used = []

    def decode(position: int) -> None:
        backend.decode([Rows(0, position, prompt(1), True)])
        used.append(lib.llama_n_threads(backend._main.handle))

    try:
        decode(0)
        start(backend, [Rows(1, 0, prompt(300), True)])
        decode(1)
        gate.opened.set()
        assert reader_of(backend).take([1])
        decode(2)
    finally:
        backend.close()
    assert used == [4, 2, 4]


def test_a_place_that_changes_hands_while_it_is_read_belongs_to_the_new_one(
    backend: LlamaBackend, gate: Gate
) -> None:
    first, second, other = prompt(200), prompt(180, salt=9), prompt(90, salt=2)
    start(backend, [Rows(0, 0, first, False), Rows(1, 0, other, True)])
    assert gate.entered.wait(60)
    backend.keep(0, 0)  # its client has left
    read_here(backend, 0, second[:100])
    gate.opened.set()
    assert reader_of(backend).take([1])
    assert near(backend.logits(0), read_here(backend, 3, other))
    (found,) = read_beside(backend, [Rows(0, 100, second[100:], True)])
    assert near(found, read_here(backend, 2, second))


def test_samplers_draw_from_what_was_read_beside(backend: LlamaBackend) -> None:
    sampler = backend.sampler(Sampling(temperature=0, repeat_penalty=1.0001), 1, ignore_eos=False)
    _, found = read_beside(backend, [Rows(s, 0, prompt(64, salt=s), True) for s in (0, 1)])
    assert sampler.sample(1, 0) == found.argmax()
    assert sampler.sample(0, 1) == backend.logits(0).argmax()
    sampler.close()


# --- how it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before it runs", "while it runs"])
def test_an_abort_is_never_lost_and_the_prompt_can_be_read_again(
    backend: LlamaBackend, gate: Gate, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    tokens = prompt(500)
    read_here(backend, 0, tokens[:50])
    start(backend, [Rows(0, 50, tokens[50:], True)])
    assert gate.entered.wait(60)
    if when == "before it runs":
        reader_of(backend).abort()
    decode = LlamaContext.decode

    def abort_and_decode(context: LlamaContext, batch: Sequence[Rows]) -> list[int]:
        reader_of(backend).abort()
        return decode(context, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LlamaContext, "decode", abort_and_decode)
        gate.opened.set()
        with pytest.raises(DecodeAborted):
            reader_of(backend).take([0])
    (found,) = read_beside(backend, [Rows(0, 50, tokens[50:], True)])
    assert near(found, read_here(backend, 1, tokens))


def test_an_abort_of_the_running_call_does_not_end_what_is_read_beside(
    backend: LlamaBackend, gate: Gate
) -> None:
    start(backend, [Rows(0, 0, prompt(300), True)])
    assert gate.entered.wait(60)
    backend.abort()
    gate.opened.set()
    assert reader_of(backend).take([0])


def test_what_no_longer_fits_into_the_main_context_changes_nothing(
    small: LlamaBackend, gate: Gate
) -> None:
    kept, filler, tokens = prompt(90), prompt(300, salt=4), prompt(150, salt=1)
    read_here(small, 0, kept)
    wanted = after(small, 0, 90)
    small.keep(0, 90)
    start(small, [Rows(1, 0, tokens[:20], True), Rows(2, 0, tokens, True)])
    assert gate.entered.wait(60)
    read_here(small, 3, filler)
    gate.opened.set()
    with pytest.raises(KvFull):
        reader_of(small).take([1, 2])
    small.keep(3, 0)
    assert near(after(small, 0, 90), wanted)
    found = read_beside(small, [Rows(1, 0, tokens[:20], True), Rows(2, 0, tokens, True)])
    assert near(found[1], read_here(small, 3, tokens))


def test_tokens_that_the_library_refuses_fail_when_they_are_taken(backend: LlamaBackend) -> None:
    poison = np.full(100, backend.info.n_vocab + 7, dtype=np.int32)
    start(backend, [Rows(0, 0, poison, True)])
    with pytest.raises(DecodeFailed):
        reader_of(backend).take([0])
    assert not reader_of(backend).is_busy


def test_closing_ends_what_is_being_read(model_path: Path, gate: Gate) -> None:
    backend = LlamaBackend(model_path, CONFIG)
    ended = start(backend, [Rows(0, 0, prompt(500), True)])
    assert gate.entered.wait(60)
    gate.opened.set()
    backend.close()
    assert ended.is_set()
    assert not reader_of(backend).is_busy


# --- memory ---------------------------------------------------------------------------------


def test_the_second_context_grows_with_the_prompt_and_is_given_back(
    backend: LlamaBackend,
) -> None:
    sizes = []
    for rows in parts(0, prompt(2300)):
        read_beside(backend, [rows])
        sizes.append(last_read_by(backend).n_cells)
    prefill = last_read_by(backend)
    assert sizes == [1024, 1024, 2048, 2048, 4096]
    reader_of(backend).rest()
    assert prefill.n_cells == (4096 if backend.reads_apart else 0)
    read_beside(backend, [Rows(1, 0, prompt(40), True)])


def test_prompts_in_turns_keep_their_cells_while_there_is_room(
    backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    save = LlamaContext.save

    def watch(context: LlamaContext, seq: int, start: int, end: int) -> object:
        if context is backend._main:
            fetched.append(end - start)
        return save(context, seq, start, end)

    monkeypatch.setattr(LlamaContext, "save", watch)
    first, second = prompt(400), prompt(400, salt=1)
    for start_ in (0, 200):
        for seq, tokens in ((0, first), (1, second)):
            rows = Rows(seq, start_, tokens[start_ : start_ + 200], start_ == 200)
            (*_, found) = [None, *read_beside(backend, [rows])]
    assert fetched == []
    assert found is not None
    assert near(found, read_here(backend, 2, second))


def test_without_memory_for_it_decode_must_read(model_path: Path) -> None:
    free_bytes = 1 << 20
    config = replace(CONFIG, kv_bytes_per_cell=1000.0)
    backend = LlamaBackend(model_path, config, lambda: free_bytes)
    batch = [Rows(0, 0, prompt(60), True)]
    assert not reader_of(backend).start(batch, lambda: None)
    free_bytes = 1 << 34
    read_beside(backend, batch)
    backend.close()


def test_without_memory_for_a_copy_of_its_cells_decode_must_read(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to end the worker."""
    backend = LlamaBackend(model_path, CONFIG)

    def refuse(n_bytes: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    tokens = prompt(200)
    read_here(backend, 0, tokens[:100])
    rest = [Rows(0, 100, tokens[100:], True)]
    monkeypatch.setattr("spillover.runtime.llama.context.saved_kv", refuse)
    assert not reader_of(backend).start(rest, lambda: None)  # of those that come before
    new = [Rows(1, 0, tokens, True)]
    start(backend, new)
    assert not reader_of(backend).take([1])  # of those that were read
    backend.decode(rest)
    backend.close()


@pytest.mark.parametrize("error", [ModelError("the system has no memory"), KvFull()])
def test_where_the_second_context_cannot_be_made_it_is_tried_again_later(
    error: Exception,
    model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After cells that did not fit, prompts were read in slices for good."""
    backend = LlamaBackend(model_path, CONFIG)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LlamaContext, "__init__", refuse)
    tokens = prompt(60)
    start(backend, [Rows(0, 0, tokens, True)])
    assert not reader_of(backend).take([0])
    assert (str(error) or "did not fit") in caplog.text
    assert not reader_of(backend).start([Rows(0, 0, tokens, True)], lambda: None)
    monkeypatch.undo()
    now = time.monotonic()
    assert not reader_of(backend).start([Rows(0, 0, tokens, True)], lambda: None)
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    read_beside(backend, [Rows(1, 0, tokens, True)])
    backend.close()


_FIRST_CONTEXT = "phi3.rope.scaling.original_context_length"


def _without_first_context(path: Path) -> None:
    content, key = path.read_bytes(), _FIRST_CONTEXT.encode()
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, b"x" * len(key)))


LONG_ROPE: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "nothing": ("phi3", lambda path: None, True),
    "first context": ("phi3", lambda path: with_numbers(path, path, {_FIRST_CONTEXT: 32}), True),
    "both": ("phi3-long", lambda path: None, False),
    "factors": ("phi3-long", _without_first_context, False),
}
"""What a file has of it, and whether another context may read for its model."""


@pytest.mark.parametrize("case", LONG_ROPE)
def test_no_other_context_reads_where_its_size_would_turn_keys_otherwise(
    case: str, tmp_path: Path
) -> None:
    """The factors do that. Converters name the first context for every Phi-3, and for some models
    with factors they do not."""
    name, change, reads = LONG_ROPE[case]
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name])
    change(path)
    backend = LlamaBackend(path, replace(CONFIG, n_kv=512))
    assert (backend.reader is not None, backend.can_read_apart) == (reads, reads)
    assert ("long" not in backend.saver.layout) is reads
    backend.close()
