"""A conversation stays where it went for a while, and does not flap."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.affinity import Affinity, conversation_key
from spillover.cloud_fallback.policy.sensors import DeviceReading
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.runtime.engine import EngineStatus
from spillover.runtime.request import Message
from tests.cloud_fallback.policy.answers import Leg, asked, finished, prose

SETTINGS = PolicySettings()
READY = EngineStatus(state="ready")


def user(text: str) -> Message:
    return Message(role="user", content=text)


def test_the_key_is_that_of_the_beginning_of_a_conversation() -> None:
    first = (Message(role="system", content="Be brief."), user("Hello"))
    later = (*first, Message(role="assistant", content="Hi"), user("Go on"))
    assert conversation_key(first) == conversation_key(later)
    assert conversation_key(first) != conversation_key(first[1:])
    assert conversation_key(first, "anna") != conversation_key(first, "ben")
    assert conversation_key((user("ab"),)) != conversation_key((user("a"), user("b")))
    assert conversation_key((user("\ud83d"),)) != conversation_key(())


def test_a_conversation_stays_and_then_returns() -> None:
    table, key = Affinity(), b"k"
    assert table.provider(key, 0.0) is None
    table.handed_over(key, "openai", 0.0, SETTINGS)
    assert table.provider(key, SETTINGS.sticky_s - 1) == "openai"
    assert table.provider(key, SETTINGS.sticky_s) is None
    assert table.provider(b"other", 1.0) is None


def test_a_conversation_that_comes_back_at_once_is_local_at_once() -> None:
    table, key = Affinity(), b"k"
    table.handed_over(key, "openai", 0.0, SETTINGS)
    table.returned(key, 5.0)
    assert table.provider(key, 6.0) is None
    table.handed_over(key, "gemini", 7.0, SETTINGS)
    assert table.provider(key, 7.0 + 1.5 * SETTINGS.sticky_s) == "gemini"


def test_the_table_is_bounded() -> None:
    table = Affinity(max_conversations=10)
    for i in range(1_000):
        table.handed_over(str(i).encode(), "openai", float(i), SETTINGS)
    assert len(table) == 10
    assert table.provider(b"999", 999.0) == "openai"


@given(gaps=st.lists(st.floats(0.1, 5_000.0), max_size=60))
def test_stays_are_never_longer_than_the_longest(gaps: list[float]) -> None:
    table, key, now = Affinity(), b"k", 0.0
    for gap in gaps:
        table.handed_over(key, "openai", now, SETTINGS)
        assert table.provider(key, now + SETTINGS.sticky_s * 0.99) == "openai"
        assert table.provider(key, now + SETTINGS.sticky_max_s) is None
        now += gap


def test_a_device_that_hovers_around_its_threshold_moves_a_conversation_a_few_times() -> None:
    """Memory swings around the limit twice a second, for 400 turns, one in 10 seconds: each
    handoff doubles the stay, so that in more than an hour there are four switches to the cloud."""
    table, key = Affinity(), b"k"
    n_handoffs = n_returns = 0
    was_cloud = False
    for turn in range(400):
        now = 10.0 * turn
        if table.provider(key, now) is not None:
            was_cloud = True
            continue
        n_returns += was_cloud
        was_cloud = False
        leg = Leg()
        leg.clock.now = now
        low, high = _memory(0.03), _memory(0.05)
        reason = leg.before(READY, 5, low if turn % 2 else high)
        if reason is None:
            leg.begin()
            leg.feed(prose(20))
            for sample in range(20):  # 10 seconds at 2 Hz
                leg.watch.sense(low if sample % 2 else high)
            reason = leg.triggers[0] if leg.triggers else None
        if reason is not None:
            assert reason.code == "memory"
            table.handed_over(key, "openai", now, SETTINGS)
            n_handoffs += 1
    assert n_handoffs <= 1 + math.log2(400 * 10 / SETTINGS.sticky_s)
    assert n_returns <= n_handoffs


def test_nothing_is_handed_over_when_the_answer_is_about_to_end() -> None:
    leg = Leg(asked(max_tokens=40))
    leg.begin()
    leg.feed(prose(37))
    for _ in range(10):
        leg.watch.sense(_memory(0.01))
    assert leg.triggers == []
    assert leg.watch.finished(finished("length", n=40)) is None


def _memory(share: float) -> DeviceReading:
    return DeviceReading(memory_total_bytes=1_000, memory_available_bytes=int(1_000 * share))
