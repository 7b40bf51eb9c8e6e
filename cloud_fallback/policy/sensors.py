"""Reads the device's sensors, but only while an answer is being watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import psutil
from msgspec import Struct

from spillover.runtime.machine.device import available_memory, known, power_now, total_memory
from spillover.runtime.machine.system_files import SystemFiles

PERIOD_S = 2.0


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
                thread = threading.Thread(target=self._run, name="sensors", daemon=True)
                thread.start()
                self._thread = thread  # not one that the system did not give
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


def read_device(files: SystemFiles | None = None) -> DeviceReading:
    """The current values of the system and the control group. A missing sensor is None, never an
    error. *files*: those of another machine than this."""
    power = power_now() if files is None else power_now(files)
    return DeviceReading(
        memory_total_bytes=known(total_memory),
        memory_available_bytes=known(available_memory),
        temperature_c=power.temperature_c,
        temperature_limit_c=power.temperature_limit_c,
        frequency_share=power.frequency_share,
        busy_share=known(lambda: psutil.cpu_percent(interval=None) / 100.0),
        on_battery=power.on_battery,
        battery_share=power.battery_share,
    )
