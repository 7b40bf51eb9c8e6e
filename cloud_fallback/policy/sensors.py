"""Reads the device's sensors, but only while an answer is being watched."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import psutil
from msgspec import Struct

from spillover.runtime.device import available_memory, total_memory

T = TypeVar("T")

PERIOD_S = 2.0
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu", "soc", "tj", "acpitz", "thermal")
"""Prefixes of the names of processor sensors on Linux and on Jetson boards."""


class DeviceReading(Struct, frozen=True, kw_only=True):
    """A reading. None: the device has no such sensor, or its value is unknown, which never counts
    as bad."""

    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    temperature_c: float | None = None
    """The hottest of the processor's sensors, in °C."""
    temperature_limit_c: float | None = None
    """The sensor's own limit."""
    frequency_share: float | None = None
    """Clock rate of the processor as a share of its highest."""
    busy_share: float | None = None
    """Use of all cores since the last reading."""
    on_battery: bool | None = None
    battery_share: float | None = None

    @property
    def memory_share(self) -> float | None:
        """Share of the memory that is still available."""
        if not self.memory_total_bytes or self.memory_available_bytes is None:
            return None
        return self.memory_available_bytes / self.memory_total_bytes


class SensorListener(Protocol):
    def sense(self, reading: DeviceReading) -> None:
        """Take a reading, quickly. Called in the sensors' thread."""


class Sensors:
    """One thread that reads every *period_s* seconds while there are listeners, and otherwise
    sleeps without waking up. Any thread may use it."""

    def __init__(
        self, read: Callable[[], DeviceReading] | None = None, *, period_s: float = PERIOD_S
    ) -> None:
        self.read = read or read_device
        """Returns a reading of this moment, taken in the caller's thread."""
        self._period_s = period_s
        self._changed = threading.Condition()
        self._listeners: list[SensorListener] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watching(self, listener: SensorListener) -> Generator[None]:
        """Give *listener* each reading while the block runs."""
        with self._changed:
            self._listeners.append(listener)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._listeners = [one for one in self._listeners if one is not listener]

    def close(self) -> None:
        """End the thread. It may be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._listeners))
                if self._closed:
                    return
            reading = self.read()
            with self._changed:
                listeners = list(self._listeners)
            for listener in listeners:
                listener.sense(reading)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self._period_s)


def read_device() -> DeviceReading:
    """The current values of psutil and the control group. A missing sensor is None, never an
    error."""
    celsius, limit = _temperature()
    on_battery, charge = _battery()
    return DeviceReading(
        memory_total_bytes=_known(total_memory),
        memory_available_bytes=_known(available_memory),
        temperature_c=celsius,
        temperature_limit_c=limit,
        frequency_share=_frequency_share(),
        busy_share=_known(lambda: psutil.cpu_percent(interval=None) / 100.0),
        on_battery=on_battery,
        battery_share=charge,
    )


def _known(read: Callable[[], T]) -> T | None:
    """What *read* returns; None if the system has no such sensor, which shows as a missing
    function or an error, or no descriptor to read it with."""
    try:
        return read()
    except (AttributeError, OSError, RuntimeError, NotImplementedError, ValueError):
        return None


def _ask(name: str) -> Any:
    """psutil's value, which may also be empty; None as in _known()."""
    return _known(lambda: getattr(psutil, name)())


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]  # checked above


def _temperature() -> tuple[float | None, float | None]:
    """The hottest processor sensor and its limit."""
    found: list[tuple[float, float | None]] = []
    for name, sensors in (_ask("sensors_temperatures") or {}).items():
        if not name.lower().startswith(_CPU_SENSORS):
            continue
        for sensor in sensors:
            celsius = _number(sensor.current)
            if celsius is not None and 0.0 < celsius < 150.0:
                found.append((celsius, _limit(sensor)))
    return max(found, key=lambda pair: pair[0], default=(None, None))


def _limit(sensor: Any) -> float | None:
    """A sensor's "high", or else a little less than its "critical"; absurd values do not count."""
    high, critical = _number(sensor.high), _number(sensor.critical)
    if high is not None and 50.0 < high < 150.0:
        return high
    if critical is not None and 55.0 < critical < 150.0:
        return critical - 5.0
    return None


def _frequency_share() -> float | None:
    frequency = _ask("cpu_freq")
    current = _number(getattr(frequency, "current", None))
    highest = _number(getattr(frequency, "max", None))
    return current / highest if current and highest else None


def _battery() -> tuple[bool | None, float | None]:
    battery = _ask("sensors_battery")
    plugged = getattr(battery, "power_plugged", None)
    percent = _number(getattr(battery, "percent", None))
    return (
        None if plugged is None else not plugged,
        None if percent is None else min(max(percent / 100.0, 0.0), 1.0),
    )
