"""When less power is used, and when all of it again."""

from __future__ import annotations

import pytest

from spillover.runtime.machine.power import PowerReading
from spillover.runtime.machine.power_saving import N_COOL_LOOKS, PowerSaver

PLUGGED = PowerReading(on_battery=False, temperature_c=60.0, temperature_limit_c=100.0)
BATTERY = PowerReading(on_battery=True)
HOT = PowerReading(temperature_c=100.0, temperature_limit_c=100.0)
WARM = PowerReading(temperature_c=95.0, temperature_limit_c=100.0)
COOL = PowerReading(temperature_c=89.0, temperature_limit_c=100.0)


def reasons(*readings: PowerReading) -> list[str]:
    saver = PowerSaver()
    return [saver.look(reading) for reading in readings]


def test_a_device_that_is_plugged_in_and_cool_has_all_its_power() -> None:
    assert set(reasons(*[PLUGGED] * 20)) == {""}
    assert set(reasons(*[PowerReading()] * 20)) == {""}


def test_a_battery_counts_after_two_readings_and_a_plug_too() -> None:
    found = reasons(BATTERY, PLUGGED, BATTERY, BATTERY, PLUGGED, BATTERY, PLUGGED, PLUGGED)
    on = "on battery"
    assert found == ["", "", "", on, on, on, on, ""]


def test_a_battery_that_is_unknown_for_a_moment_changes_nothing() -> None:
    assert reasons(BATTERY, BATTERY, *[PowerReading()] * 9)[-1] == "on battery"


@pytest.mark.parametrize(
    "bad", [HOT, PowerReading(temperature_c=91.0), PowerReading(is_throttled=True)]
)
def test_heat_counts_until_the_processor_has_been_cool_for_long(bad: PowerReading) -> None:
    saver = PowerSaver()
    assert [saver.look(bad), saver.look(bad)] == ["", "the processor is hot"]
    for between in (bad, WARM):
        for _ in range(N_COOL_LOOKS - 1):
            assert saver.look(COOL)
        assert saver.look(between), "it counts anew"
    assert all(saver.look(COOL) for _ in range(N_COOL_LOOKS - 1))
    assert saver.look(COOL) == ""


def test_a_thermometer_that_is_silent_for_a_while_changes_nothing() -> None:
    """It counted as cool, so that a hot processor got all its threads back."""
    saver = PowerSaver()
    for _ in range(2):
        saver.look(HOT)
    assert {saver.look(PowerReading(on_battery=False)) for _ in range(20)} == {
        "the processor is hot"
    }
    for _ in range(N_COOL_LOOKS - 1):
        saver.look(COOL)
        assert saver.look(PowerReading()), "it is cool for long only when that was measured"
    assert saver.look(COOL) == ""


def test_a_processor_without_a_thermometer_is_hot_while_it_is_slowed_down() -> None:
    saver = PowerSaver()
    throttled = PowerReading(is_throttled=True)
    assert [saver.look(throttled) for _ in range(2)][-1] == "the processor is hot"
    assert [saver.look(PowerReading()) for _ in range(N_COOL_LOOKS)][-1] == ""


def test_heat_that_is_unknown_does_not_end_what_the_battery_began() -> None:
    cold = PowerReading(on_battery=True, temperature_c=40.0)
    silent = PowerReading(on_battery=True)
    assert reasons(cold, cold, *[silent] * 20)[1:] == ["on battery"] * 21


def test_a_processor_near_its_limit_does_not_begin_to_save() -> None:
    assert set(reasons(HOT, WARM, HOT, WARM, HOT, COOL)) == {""}


def test_heat_is_told_before_the_battery() -> None:
    both = PowerReading(on_battery=True, is_throttled=True)
    assert reasons(both, both)[-1] == "the processor is hot"
