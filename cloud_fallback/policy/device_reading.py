"""What the device's sensors said at one moment, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.policy.reason import CapacityCode, Reason
from spillover.cloud_fallback.policy.settings import PolicySettings


class DeviceReading(Struct, frozen=True, kw_only=True):
    """None: the device has no such sensor, or does not say. Unknown never counts as bad."""

    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    temperature_c: float | None = None
    """The hottest of the processor's sensors."""
    temperature_limit_c: float | None = None
    """That sensor's own idea of what is too hot."""
    frequency_share: float | None = None
    """Clock rate of the processor as a share of its highest."""
    busy_share: float | None = None
    """How much of all cores was in use since the last reading."""
    on_battery: bool | None = None
    battery_share: float | None = None

    @property
    def memory_share(self) -> float | None:
        """Share of the memory that is still available."""
        if not self.memory_total_bytes or self.memory_available_bytes is None:
            return None
        return self.memory_available_bytes / self.memory_total_bytes


BUSY_SHARE = 0.3
"""With less than this in use a low clock rate saves energy and is no throttling."""


class _Pressed(Struct, frozen=True):
    """One look at one sensor: over its limit, recovered, or in between (neither)."""

    bad: bool
    good: bool
    signals: dict[str, float]


_Look: TypeAlias = Callable[[DeviceReading, PolicySettings], _Pressed | None]


def _memory(reading: DeviceReading, settings: PolicySettings) -> _Pressed | None:
    share = reading.memory_share
    if share is None:
        return None
    return _Pressed(
        share <= settings.memory_low,
        share >= settings.memory_recovered,
        {"memory_available": share, "memory_low": settings.memory_low},
    )


def _thermal(reading: DeviceReading, settings: PolicySettings) -> _Pressed | None:
    celsius = reading.temperature_c
    if celsius is None:
        return None
    high = min(settings.temperature_high_c, reading.temperature_limit_c or float("inf"))
    margin = settings.temperature_high_c - settings.temperature_recovered_c
    return _Pressed(
        celsius >= high,
        celsius <= high - margin,
        {"temperature_c": celsius, "temperature_high_c": high},
    )


def _battery(reading: DeviceReading, settings: PolicySettings) -> _Pressed | None:
    share = reading.battery_share
    if share is None or reading.on_battery is None:
        return None
    return _Pressed(
        reading.on_battery and share <= settings.battery_low,
        not reading.on_battery or share >= settings.battery_recovered,
        {"battery": share, "battery_low": settings.battery_low},
    )


_LOOKS: dict[CapacityCode, _Look] = {
    "memory": _memory,
    "thermal": _thermal,
    "battery": _battery,
}


class DevicePressure:
    """A fold over readings with hysteresis: a sensor counts after *sensor_dwell* bad readings in
    a row, and until a good one. What lies in between changes nothing."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._n_bad: dict[CapacityCode, int] = {}

    def step(self, reading: DeviceReading, *, dwell: int | None = None) -> Reason | None:
        """The first sensor that has been bad for long enough; *dwell* overrides the setting."""
        found = None
        for code, look in _LOOKS.items():
            pressed = look(reading, self._settings) if self._settings.is_on(code) else None
            # A limit may be set beyond where the sensor counts as recovered.
            if pressed is None or (pressed.good and not pressed.bad):
                self._n_bad[code] = 0
                continue
            if pressed.bad:
                self._n_bad[code] = self._n_bad.get(code, 0) + 1
            if self._n_bad.get(code, 0) >= (dwell or self._settings.sensor_dwell):
                found = found or Reason(code=code, signals=pressed.signals)
        return found


def is_throttled(reading: DeviceReading, settings: PolicySettings) -> bool:
    """Whether the processor works hard at a clock rate far below its highest."""
    share, busy = reading.frequency_share, reading.busy_share
    if share is None or busy is None:
        return False
    return share <= settings.frequency_low and busy >= BUSY_SHARE
