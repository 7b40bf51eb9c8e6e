"""Whether checking a draft is worth its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.backend import N_CHECKED
from spillover.runtime.options import EngineOptions
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.speculation import (
    FIRST_PATIENCE,
    LAST_PATIENCE,
    MOST_STREAMS,
    PAUSE_STEPS,
    Speculation,
)
from tests.runtime.scheduling.speculating import (
    CHEAP,
    MAX_GAP_S,
    N_CTX,
    Fixed,
    chooser,
    sequences,
    sizes,
)

pytestmark = pytest.mark.usefixtures("fixed")

DEAR = {0: 1.0, 1: 2.0, 3: 4.0, 7: 8.0, 15: 16.0}


def test_the_size_is_chosen_by_what_it_promises_for_its_cost(fixed: type[Fixed]) -> None:
    assert sizes(chooser(CHEAP), sequences(1)) == [7]
    fixed.rate = 0.5
    assert sizes(chooser(CHEAP), sequences(1)) == [3]


def test_nothing_is_checked_before_a_plain_step_was_measured() -> None:
    found = Speculation(N_CTX, lambda n_cells: True, MAX_GAP_S)
    assert found.drafts(sequences(1)) == {}


def test_larger_drafts_are_tried_one_after_the_other() -> None:
    found, tried = chooser({0: 1.0}), []
    for _ in range(8):
        (size,) = sizes(found, sequences(1))
        tried.append(size)
        found.observe(1, 1, size, 1.0)
    assert tried == [3, 3, 7, 7, 15, 15, 15, 15]


def test_many_streams_try_a_token_each() -> None:
    assert sizes(chooser({0: 1.0}, 6), sequences(6)) == [1] * 6


def test_where_checks_lose_they_are_tried_ever_more_rarely() -> None:
    found, checks = chooser(DEAR), []
    for step in range(3 * LAST_PATIENCE):
        if sizes(found, sequences(1)):
            checks.append(step)
            found.observe(1, 1, 3, DEAR[3])
    assert checks[0] == FIRST_PATIENCE - 1
    gaps = np.diff(checks).tolist()
    assert gaps == sorted(gaps)
    assert len(checks) <= 7


def test_a_check_that_was_slow_by_chance_is_soon_seen_to_be_fast() -> None:
    found = chooser({0: 1.0, 3: 9.0})
    for _ in range(FIRST_PATIENCE):
        chosen = sizes(found, sequences(1))
    assert chosen == [3]
    found.observe(1, 1, 3, 1.1)
    assert sizes(found, sequences(1)) != []


def test_a_check_that_takes_longer_than_a_stream_may_wait_is_tried_with_one_token() -> None:
    found = chooser({0: 10.0, 1: 19.5, 3: 30.0})
    tried = [sizes(found, sequences(1)) for _ in range(FIRST_PATIENCE)]
    assert tried[-1] == [1]


def test_what_is_known_of_checks_that_take_too_long_fades_without_one() -> None:
    found = chooser({0: 1.0, 1: 70.0, 3: 90.0})
    chosen = [sizes(found, sequences(1)) for _ in range(4 * FIRST_PATIENCE)]
    assert chosen[: 2 * FIRST_PATIENCE] == [[]] * 2 * FIRST_PATIENCE
    assert any(chosen)
    found.observe(1, 1, 3, 90.0)
    assert found._costs.seconds(1, 1, 3) == 90.0


def test_what_checks_cost_depends_on_how_many_streams_have_a_draft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On ONNX Runtime each draft is a run of its own."""
    found, decoding = chooser({0: 1.0, 2: 9.0, 6: 9.0}, 2, served=2), sequences(2)
    assert sizes(found, decoding) == []
    for _ in range(2):
        found.observe(2, 1, 3, 1.1)
    monkeypatch.setattr(decoding[1], "drafter", Drafter())
    assert sizes(found, decoding) == [3]


def test_streams_without_a_draft_are_hardly_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    found, (one, other) = chooser(CHEAP | {7: 1.6, 15: 1.9}, 2), sequences(2)
    for n_drafted, seconds in ((1, 1.0), (3, 1.1), (7, 1.6), (15, 1.9)):
        for _ in range(2):
            found.observe(2, 1, n_drafted, seconds)
    assert sizes(found, [one, other]) != []
    assert other.drafter is not None
    monkeypatch.setattr(other.drafter, "follow", lambda tokens: None)
    other.drafter.draft = []
    assert [len(draft) for draft in found.drafts([one, other]).values()] == [3]
    assert one in found.drafts([one, other])


def test_no_check_takes_longer_than_a_stream_may_wait() -> None:
    assert sizes(chooser({0: 9.0, 1: 10.0, 3: 12.0, 7: 21.0, 15: 30.0}), sequences(1)) == [3]


def test_drafts_that_are_seldom_right_are_never_checked(fixed: type[Fixed]) -> None:
    fixed.rate = 0.2
    found = chooser(CHEAP)
    assert not any(found.drafts(sequences(1)) for _ in range(2 * LAST_PATIENCE))


def test_a_call_checks_no_more_than_it_may() -> None:
    n = MOST_STREAMS
    found = chooser(dict.fromkeys(range(N_CHECKED + 1), 1.0), n)
    assert sum(sizes(found, sequences(n))) == N_CHECKED
    assert found.drafts(sequences(n + 1)) == {}


def test_a_draft_ends_before_the_answer_does() -> None:
    assert sizes(chooser(CHEAP), sequences(1, max_tokens=3)) == [2]
    assert sizes(chooser(CHEAP), sequences(1, max_tokens=1)) == []


def test_drafts_only_take_cells_that_are_free() -> None:
    assert sizes(chooser(CHEAP, room=7), sequences(1)) == []
    assert sizes(chooser(CHEAP, room=8), sequences(1)) == [7]


def test_a_full_cache_ends_drafts_for_a_while() -> None:
    found = chooser(CHEAP)
    found.pause()
    assert [bool(found.drafts(sequences(1))) for _ in range(PAUSE_STEPS + 1)][-2:] == [False, True]


def test_the_setting_is_overridden_by_deterministic() -> None:
    assert EngineOptions().settled().speculation == "auto"
    assert EngineOptions(deterministic=True, cache_dir=Path()).settled().speculation == "off"
