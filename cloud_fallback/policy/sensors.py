"""Reads the device's sensors while somebody wants to know, and only then."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import psutil
from msgspec import Struct

from spillover.runtime.device import available_memory, total_memory

PERIOD_S = 2.0
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu", "soc", "tj", "acpitz", "thermal")
"""Beginnings of the names of processor sensors, as Linux and the Jetson boards call them."""


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


class Senses(Protocol):
    """Who is told of each reading; called from the sensors' thread, must be quick."""

    def sense(self, reading: DeviceReading) -> None: ...


Read: TypeAlias = Callable[[], DeviceReading]


class Sensors:
    """One thread that reads every *period_s* seconds while a watch is registered, and blocks
    without any wake-up otherwise. Any thread may call anything here."""

    def __init__(self, read: Read | None = None, *, period_s: float = PERIOD_S) -> None:
        self._read = read or read_device
        self._period_s = period_s
        self._changed = threading.Condition()
        self._watches: list[Senses] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def read(self) -> DeviceReading:
        """A reading of this moment, taken in the caller's thread."""
        return self._read()

    @contextmanager
    def watching(self, watch: Senses) -> Generator[None]:
        """Tell *watch* of each reading while the block runs."""
        self.register(watch)
        try:
            yield
        finally:
            self.unregister(watch)

    def register(self, watch: Senses) -> None:
        with self._changed:
            self._watches.append(watch)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def unregister(self, watch: Senses) -> None:
        with self._changed:
            self._watches = [other for other in self._watches if other is not watch]

    def close(self) -> None:
        """End the thread. Calling it again does no harm."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._watches))
                if self._closed:
                    return
            reading = self._read()
            with self._changed:
                watches = list(self._watches)
            for watch in watches:
                watch.sense(reading)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self._period_s)


def read_device() -> DeviceReading:
    """What psutil and the control group say now; never raises for a sensor that is not there."""
    celsius, limit = _temperature()
    on_battery, charge = _battery()
    return DeviceReading(
        memory_total_bytes=total_memory(),
        memory_available_bytes=available_memory(),
        temperature_c=celsius,
        temperature_limit_c=limit,
        frequency_share=_frequency_share(),
        busy_share=psutil.cpu_percent(interval=None) / 100.0,
        on_battery=on_battery,
        battery_share=charge,
    )


def _ask(name: str) -> Any:
    """psutil's answer, or None: sensors are missing on some systems, as functions, as values, or
    with an error."""
    try:
        return getattr(psutil, name)()
    except (AttributeError, OSError, RuntimeError, NotImplementedError, ValueError):
        return None


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
    """A sensor's "high", else a little less than its "critical"; absurd ones do not count."""
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
