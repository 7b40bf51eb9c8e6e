"""Sensors: their readings, their hysteresis, and the thread that reads them."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.doubt import Doubt
from spillover.cloud_fallback.policy.observation import LocalModel, Observation
from spillover.cloud_fallback.policy.rules import RuleSet
from spillover.cloud_fallback.policy.sensors import DeviceReading, Sensors, read_device
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.runtime.machine.system_files import SystemFiles
from tests.cloud_fallback.policy.answers import Leg, asked, prose
from tests.runtime.machine.trees import laptop

SETTINGS = PolicySettings()


def memory(share: float) -> DeviceReading:
    return DeviceReading(memory_total_bytes=1_000, memory_available_bytes=int(1_000 * share))


def seen(reading: DeviceReading, settings: PolicySettings = SETTINGS) -> Observation:
    request = asked()
    return Observation(
        request=request,
        settings=settings,
        local=LocalModel(),
        signals=Signals(request, settings, 0.0),
        doubt=Doubt(settings),
        device=reading,
    )


def codes(readings: list[DeviceReading]) -> list[str | None]:
    rules = RuleSet(SETTINGS)
    reasons = [rules.first_reason("sensors", seen(reading)) for reading in readings]
    return [None if reason is None else reason.code for reason in reasons]


def test_pressure_begins_after_two_bad_readings_and_ends_with_a_good_one() -> None:
    bad, between, good = memory(0.02), memory(0.05), memory(0.2)
    assert codes([bad, good, bad, between, bad, between, good, between, bad]) == [
        None,
        None,
        None,
        None,
        "memory",
        "memory",
        None,
        None,
        None,
    ]


def test_a_limit_beyond_where_the_sensor_counts_as_recovered_holds() -> None:
    """memory_low = 0.5 alone used to switch the policy off."""
    settings = PolicySettings(memory_low=0.5, battery_low=0.5, temperature_high_c=60.0)
    for reading, code in (
        (memory(0.4), "memory"),
        (DeviceReading(on_battery=True, battery_share=0.4), "battery"),
        (DeviceReading(temperature_c=70.0), "thermal"),
    ):
        reason = RuleSet(settings).first_reason("before", seen(reading, settings))
        assert reason is not None
        assert reason.code == code


@pytest.mark.parametrize(
    ("reading", "code"),
    [
        (DeviceReading(temperature_c=96.0), "thermal"),
        (DeviceReading(temperature_c=86.0, temperature_limit_c=85.0), "thermal"),
        (DeviceReading(temperature_c=86.0), None),
        (DeviceReading(on_battery=True, battery_share=0.05), "battery"),
        (DeviceReading(on_battery=False, battery_share=0.05), None),
        (DeviceReading(battery_share=0.05), None),
        (DeviceReading(), None),
    ],
)
def test_each_sensor_has_its_code_and_unknown_is_not_bad(
    reading: DeviceReading, code: str | None
) -> None:
    assert codes([reading, reading])[-1] == code


@given(st.lists(st.floats(0.041, 1.0), max_size=50))
def test_memory_that_never_gets_low_never_triggers(shares: list[float]) -> None:
    assert set(codes([memory(share) for share in shares])) <= {None}


def test_throttling_needs_a_low_clock_rate_and_slower_decoding() -> None:
    slow_clock = DeviceReading(frequency_share=0.3, busy_share=0.9)
    leg = Leg()
    leg.begin()
    leg.feed(prose(64), step_s=0.02)
    leg.watch.sense(slow_clock)
    leg.watch.sense(DeviceReading(frequency_share=0.3, busy_share=0.1))
    assert leg.triggers == []
    leg.feed(prose(64, 64), step_s=0.06)
    leg.watch.sense(DeviceReading(frequency_share=0.9, busy_share=0.9))
    assert leg.triggers == []
    leg.watch.sense(slow_clock)
    assert [reason.code for reason in leg.triggers] == ["throttled"]


def test_this_machine_can_be_read() -> None:
    reading = read_device()
    assert reading.memory_share is not None
    assert 0.0 < reading.memory_share <= 1.0


def test_without_a_descriptor_nothing_is_known_for_a_moment() -> None:
    """The thread used to end, and no sensor was read any more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        reading = read_device()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert reading.memory_available_bytes is None


def test_a_machine_without_sensors_says_nothing(tmp_path: Path) -> None:
    reading = read_device(SystemFiles(tmp_path))
    assert reading.temperature_c is None
    assert reading.frequency_share is None
    assert reading.on_battery is None
    assert reading.battery_share is None


def test_the_sensors_of_a_laptop_are_read(tmp_path: Path) -> None:
    reading = read_device(laptop(tmp_path))
    assert (reading.temperature_c, reading.temperature_limit_c) == (72.0, 100.0)
    assert (reading.on_battery, reading.battery_share) == (True, 0.42)
    assert reading.frequency_share == 0.25


class Listener:
    """Counts readings and tells when there were enough."""

    def __init__(self, n: int) -> None:
        self.readings: list[DeviceReading] = []
        self.enough = threading.Event()
        self._n = n

    def sense(self, reading: DeviceReading) -> None:
        self.readings.append(reading)
        if len(self.readings) >= self._n:
            self.enough.set()


def test_watches_get_readings_while_registered_and_nothing_is_read_otherwise() -> None:
    n_read = 0
    lock = threading.Lock()

    def read() -> DeviceReading:
        nonlocal n_read
        with lock:
            n_read += 1
        return DeviceReading(temperature_c=float(n_read))

    sensors = Sensors(read, period_s=0.001)
    before = threading.active_count()
    assert n_read == 0
    first, second = Listener(5), Listener(3)
    with sensors.watching(first):
        assert threading.active_count() == before + 1
        assert first.enough.wait(10)
        with sensors.watching(second):
            assert second.enough.wait(10)
    thread = sensors._thread
    assert thread is not None
    later = Listener(2)
    with sensors.watching(later):
        assert later.enough.wait(10)
    assert sensors._thread is thread
    sensors.close()
    sensors.close()
    assert not thread.is_alive()
    n = n_read
    with sensors.watching(first):
        assert n_read == n


def test_the_thread_waits_without_a_timeout_when_there_are_no_listeners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float | None] = []
    idle = threading.Event()

    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            if timeout is None:
                idle.set()
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Condition", Condition)
    sensors = Sensors(lambda: DeviceReading(), period_s=0.001)
    listener = Listener(2)
    with sensors.watching(listener):
        assert listener.enough.wait(10)
    idle.clear()
    assert idle.wait(10)
    assert waits[-1] is None
    sensors.close()
