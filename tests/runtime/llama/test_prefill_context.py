"""Prompts that are read with a second layout of the weights, and whether they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.runtime.backend import KvFull, Logits, Rows, Tokens
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig, LlamaContext
from spillover.runtime.llama.opening import prefill_choice
from spillover.runtime.llama.opening.prefill_choice import choose_prefill, measure
from spillover.runtime.llama.prefill import context as prefill_context
from spillover.runtime.llama.prefill.context import PrefillContext
from spillover.runtime.options import EngineOptions, SecondLayout
from spillover.runtime.sampling import Sampling

CONFIG = LlamaConfig(
    n_kv=512,
    n_seq=4,
    n_batch=256,
    n_threads=1,
    n_gpu_layers=0,
    kv_cache_type="f16",
    use_extra_bufts=True,
)
N_CELLS = 256


@pytest.fixture(scope="module")
def opened(model_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(model_path, CONFIG)
    yield backend
    backend.close()


@pytest.fixture
def here(opened: LlamaBackend) -> LlamaBackend:
    """Without a second layout, and with an empty KV cache."""
    opened.read_prompts_here()
    for seq in range(CONFIG.n_seq):
        opened.keep(seq, 0)
    return opened


@pytest.fixture
def apart(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaBackend]:
    """With a second layout, whose KV cache is the smaller one."""
    monkeypatch.setattr(prefill_context, "N_CELLS", N_CELLS)
    backend = LlamaBackend(model_path, CONFIG)
    backend.read_prompts_apart()
    yield backend
    backend.close()


def prompt(n: int, salt: int = 0) -> Tokens:
    return (300 + (np.arange(n, dtype=np.int32) * (7 + salt)) % 997).astype(np.int32)


def read(backend: LlamaBackend, seq: int, tokens: Tokens, slices: int) -> Logits:
    for start in range(0, len(tokens), slices):
        part = tokens[start : start + slices]
        backend.decode([Rows(seq, start, part, start + len(part) == len(tokens))])
    return backend.logits(0).copy()


def after(backend: LlamaBackend, seq: int, n: int) -> Logits:
    """The logits after one more token: what the main context knows of the first *n*."""
    backend.decode([Rows(seq, n, prompt(1), True)])
    return backend.logits(0).copy()


def near(a: Logits, b: Logits) -> bool:
    return bool(np.sqrt(((a - b) ** 2).mean()) < 0.055 * a.std())


@pytest.mark.parametrize(("n", "slices"), [(40, 40), (200, 64), (230, 200), (170, 33)])
def test_a_prompt_that_was_read_apart_is_known_to_the_main_context(
    here: LlamaBackend,
    apart: LlamaBackend,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    slices: int,
) -> None:
    n_read = 0

    def count(self: PrefillContext, batch: Sequence[Rows], main: LlamaContext) -> list[int] | None:
        nonlocal n_read
        n_read += sum(len(rows.tokens) for rows in batch)
        return read_apart(self, batch, main)

    read_apart = PrefillContext.read
    monkeypatch.setattr(PrefillContext, "read", count)
    tokens = prompt(n)
    read(apart, 2, tokens, slices)
    assert n_read >= n - 31
    assert near(read(apart, 1, tokens, slices), read(here, 1, tokens, slices))
    assert near(after(apart, 1, n), after(here, 1, n))


def test_two_prompts_that_take_turns_stay_apart(here: LlamaBackend, apart: LlamaBackend) -> None:
    first, second = prompt(120), prompt(120, salt=4)
    wanted = [read(here, 0, first, 120), read(here, 1, second, 120)]
    for start in (0, 40, 80):
        ends = start == 80
        apart.decode(
            [Rows(seq, start, t[start : start + 40], ends) for seq, t in enumerate((first, second))]
        )
    assert near(apart.logits(0), wanted[0])
    assert near(apart.logits(1), wanted[1])
    assert near(after(apart, 0, 120), after(here, 0, 120))
    assert near(after(apart, 1, 120), after(here, 1, 120))


def test_generated_text_is_reused_in_the_next_turn(here: LlamaBackend, apart: LlamaBackend) -> None:
    tokens = prompt(140)
    wanted = read(here, 0, tokens, 140)
    read(apart, 0, tokens[:60], 60)
    for position in range(60, 80):  # an answer
        apart.decode([Rows(0, position, tokens[position : position + 1], True)])
    apart.decode([Rows(0, 80, tokens[80:], True)])
    assert near(apart.logits(0), wanted)


def test_a_prompt_too_long_for_the_second_context_continues_in_the_main_one(
    here: LlamaBackend, apart: LlamaBackend
) -> None:
    tokens = prompt(N_CELLS + 150)
    assert near(read(apart, 0, tokens, 50), read(here, 0, tokens, 50))
    assert near(after(apart, 0, len(tokens)), after(here, 0, len(tokens)))


def test_prompts_that_fill_the_second_context_together_are_read_all_the_same(
    here: LlamaBackend, apart: LlamaBackend
) -> None:
    first, second = prompt(200), prompt(200, salt=4)
    wanted = [read(here, 0, first, 200), read(here, 1, second, 200)]
    apart.decode([Rows(0, 0, first[:150], False)])
    apart.decode([Rows(1, 0, second[:150], False)])
    for seq, tokens in ((0, first), (1, second)):
        apart.decode([Rows(seq, 150, tokens[150:], True)])
        assert near(apart.logits(0), wanted[seq])


def test_without_room_in_the_main_context_nothing_is_changed(apart: LlamaBackend) -> None:
    kept, filler = prompt(90), prompt(200, salt=4)
    read(apart, 0, kept, 90)
    expected = after(apart, 0, 90)
    apart.keep(0, 90)
    apart.decode([Rows(1, 0, filler, False)])
    apart.decode([Rows(2, 0, filler, False)])
    with pytest.raises(KvFull):
        apart.decode([Rows(3, 0, filler[:100], True)])
    apart.keep(1, 0)
    assert near(after(apart, 0, 90), expected)
    apart.keep(2, 0)
    assert near(read(apart, 3, kept, 90), read(apart, 2, kept, 90))


def test_a_part_is_only_put_where_it_begins(here: LlamaBackend) -> None:
    """An empty sequence took any part, and so had a hole at its beginning."""
    tokens = prompt(60)
    read(here, 0, tokens, 60)
    part = here.saver.save(0, 20, 40)
    assert not here.saver.append(1, 0, 20, part)
    read(here, 1, tokens[:10], 10)  # nothing is there
    assert not here.saver.append(1, 20, 40, part)
    assert here.keep(1, 10) == 10
    here.keep(1, 0)
    read(here, 1, tokens[:20], 20)
    assert here.saver.append(1, 20, 40, part)
    here.keep(0, 40)
    assert near(after(here, 1, 40), after(here, 0, 40))


def test_a_sampler_draws_from_the_context_that_has_the_logits(apart: LlamaBackend) -> None:
    sampling = Sampling(temperature=0, repeat_penalty=1.0001)
    sampler = apart.sampler(sampling, 1, ignore_eos=False)
    logits = read(apart, 0, prompt(64), 64)
    assert sampler.sample(0, 0) == logits.argmax()
    logits = after(apart, 0, 64)
    assert sampler.sample(0, 1) == logits.argmax()
    sampler.close()


def test_the_second_layout_is_dropped_when_memory_becomes_scarce(model_path: Path) -> None:
    free_bytes = 1 << 34
    backend = LlamaBackend(model_path, CONFIG, lambda: free_bytes)
    backend.read_prompts_apart()
    wanted = read(backend, 0, prompt(120), 60)
    assert backend.reads_apart
    free_bytes = 1 << 20
    backend.decode([Rows(1, 0, prompt(60), False)])
    assert not backend.reads_apart
    backend.decode([Rows(1, 60, prompt(120)[60:], True)])
    assert near(backend.logits(0), wanted)
    backend.close()


# --- whether it is worth it -----------------------------------------------------------------


def clock_of(backend: LlamaBackend, *, main_s: float, apart_s: float) -> Callable[[], float]:
    """A clock on which each measured call takes so long."""
    now, is_running = 0.0, False

    def clock() -> float:
        nonlocal now, is_running
        if is_running:
            now += apart_s if backend.reads_apart else main_s
        is_running = not is_running
        return now

    return clock


def choose(
    backend: LlamaBackend,
    cache_dir: Path,
    *,
    main_s: float,
    apart_s: float,
    free_bytes: int = 1 << 34,
    layout: SecondLayout = "auto",
    n_free: float = 0.0,
) -> bool:
    options = EngineOptions(cache_dir=cache_dir, second_layout=layout)
    clock = clock_of(backend, main_s=main_s, apart_s=apart_s)
    cores = SimpleNamespace(free=lambda: n_free)
    choose_prefill(backend, options, 1000.0, free_bytes, clock, lambda: cores)
    return backend.reads_apart


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_choice, "_SMALLEST_MODEL_BYTES", 0)


@pytest.mark.usefixtures("any_size")
def test_it_is_chosen_where_it_is_faster_and_that_is_remembered(
    here: LlamaBackend, tmp_path: Path
) -> None:
    assert choose(here, tmp_path, main_s=0.14, apart_s=0.10)
    here.read_prompts_here()
    assert choose(here, tmp_path, main_s=0.01, apart_s=0.10)  # not measured again


@pytest.mark.usefixtures("any_size")
def test_it_is_not_chosen_where_it_is_hardly_faster(here: LlamaBackend, tmp_path: Path) -> None:
    assert not choose(here, tmp_path, main_s=0.11, apart_s=0.10)
    assert not choose(here, tmp_path, main_s=0.90, apart_s=0.10)  # not measured again


@pytest.mark.usefixtures("any_size")
def test_what_other_programs_disturbed_is_not_remembered(
    here: LlamaBackend, tmp_path: Path
) -> None:
    assert not choose(here, tmp_path, main_s=0.11, apart_s=0.10, n_free=0.5)
    assert choose(here, tmp_path, main_s=0.14, apart_s=0.10)


@pytest.mark.usefixtures("any_size")
def test_it_is_not_chosen_where_memory_is_scarce(here: LlamaBackend, tmp_path: Path) -> None:
    assert not choose(here, tmp_path, main_s=0.90, apart_s=0.10, free_bytes=300 << 20)
    assert not list(tmp_path.iterdir())


def test_a_small_model_is_not_worth_it(here: LlamaBackend, tmp_path: Path) -> None:
    assert not choose(here, tmp_path, main_s=0.90, apart_s=0.10)


@pytest.mark.usefixtures("any_size")
def test_the_user_has_the_last_word(here: LlamaBackend, tmp_path: Path) -> None:
    assert not choose(here, tmp_path, main_s=0.90, apart_s=0.10, layout="off")
    assert choose(here, tmp_path, main_s=0.10, apart_s=0.90, layout="on")


def test_a_measurement_leaves_nothing_behind(here: LlamaBackend) -> None:
    times = measure(here, clock_of(here, main_s=3.0, apart_s=2.0))
    assert (times.main_s, times.apart_s) == (3.0, 2.0)
    assert not here.reads_apart
    read(here, 0, prompt(250), 250)
    read(here, 1, prompt(250), 250)


def test_without_repacking_there_is_nothing_to_gain(model_path: Path, tmp_path: Path) -> None:
    backend = LlamaBackend(model_path, replace(CONFIG, use_extra_bufts=False))
    try:
        assert not choose(backend, tmp_path, main_s=0.10, apart_s=0.90, layout="on")
    finally:
        backend.close()
