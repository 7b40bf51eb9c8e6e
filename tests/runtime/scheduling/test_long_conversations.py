"""Long conversations come and leave in parts beside the answers that run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spillover.models.catalogue import find
from spillover.runtime.events import Delta, Finished
from spillover.runtime.kv_cache import cache, prefix_saver
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling import kv_moves
from tests.runtime.scheduling.watched_loop import Loop, loop_on

N_PART, N_PROMPT = 64, 400


@pytest.fixture(params=["storyteller", "storyteller-onnx"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    for module in (cache, prefix_saver, kv_moves):
        monkeypatch.setattr(module, "N_PART", N_PART)
    for loop in loop_on(Path(find(request.param).path), saved_bytes=64 << 20):
        loop.scheduler._beside._reader = None  # so that the stream takes few steps meanwhile
        yield loop


def answered(loop: Loop, job_id: int, prompt_of: int, **fields: int) -> Finished:
    loop.submit(job_id, N_PROMPT, prompt_of=prompt_of, max_tokens=2, **fields)
    end = loop.wait_for(job_id, Finished)
    assert isinstance(end, Finished)
    return end


def test_who_comes_back_reads_nothing_again_and_nobody_waits_for_all_of_it(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversations of 6,000 tokens were restored, copied and saved in one piece: the streams stood
    still for up to 0.44 s."""
    loop.submit(1, 16, max_tokens=900)
    loop.wait_for(1, Delta)
    moved: list[int] = []
    save_part, fill_part = KvCache.save_part, KvCache.fill_part

    def noted_save(kv: KvCache, n_ahead: int = 0) -> int:
        moved.append(save_part(kv, n_ahead))
        return moved[-1]

    def noted_fill(kv: KvCache, seq: int, *args: object) -> int:
        n = kv.n_tokens(seq)
        n_after = fill_part(kv, seq, *args)  # type: ignore[arg-type]  # those of the call
        moved.append(n_after - n)
        return n_after

    monkeypatch.setattr(KvCache, "save_part", noted_save)
    monkeypatch.setattr(KvCache, "fill_part", noted_fill)
    for job_id in (10, 11, 12, 13):
        answered(loop, job_id, job_id)
    assert answered(loop, 14, 10).usage.cached_tokens == N_PROMPT - 1
    assert max(moved) <= N_PART
    assert sum(moved) >= 2 * N_PROMPT


def test_a_client_that_leaves_while_its_prompt_is_restored_frees_its_place(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.submit(1, 16, max_tokens=900)
    loop.wait_for(1, Delta)
    for job_id in (10, 11, 12, 13):
        answered(loop, job_id, job_id)
    fill_part = KvCache.fill_part

    def leave(kv: KvCache, seq: int, *args: object) -> int:
        loop.scheduler.cancel(14)
        return fill_part(kv, seq, *args)  # type: ignore[arg-type]  # those of the call

    monkeypatch.setattr(KvCache, "fill_part", leave)
    loop.submit(14, N_PROMPT, prompt_of=10, max_tokens=2)
    end = loop.wait_for(14, Finished)
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    monkeypatch.setattr(KvCache, "fill_part", fill_part)
    assert answered(loop, 15, 10).usage.cached_tokens == N_PROMPT - 1
