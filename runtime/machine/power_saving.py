"""Decides when to compute with less power: pure, readings are passed in."""

from __future__ import annotations

from spillover.runtime.machine.power import PowerReading

N_LOOKS = 2
"""So many readings in a row begin or end the saving on a battery, and begin it because of heat."""

N_COOL_LOOKS = 8
"""So many cool readings in a row end it: a cooler soon gets hot again with all threads."""

HOT_C = 90.0
"""Of a processor whose sensor knows no limit of its own."""

COOLED_C = 10.0
"""A processor has cooled when it is so far below its limit."""


class PowerSaver:
    """Looks at readings, a few seconds apart while a model computes."""

    def __init__(self) -> None:
        self.reason = ""
        """Why power is saved; empty: it is not."""
        self._heat = _Hysteresis(N_LOOKS, N_COOL_LOOKS)
        self._battery = _Hysteresis(N_LOOKS, N_LOOKS)
        self._has_thermometer = False

    def look(self, reading: PowerReading) -> str:
        """Take a reading, and return the reason. What a sensor does not tell for a while changes
        nothing."""
        self._has_thermometer |= reading.temperature_c is not None
        is_missing = self._has_thermometer and reading.temperature_c is None
        if reading.is_throttled or not is_missing:
            self._heat.look(_heat(reading))
        if reading.on_battery is not None:
            self._battery.look(reading.on_battery)
        is_hot, on_battery = self._heat.is_on, self._battery.is_on
        self.reason = "the processor is hot" if is_hot else "on battery" if on_battery else ""
        return self.reason


class _Hysteresis:
    def __init__(self, n_to_begin: int, n_to_end: int) -> None:
        self._n_to_begin, self._n_to_end = n_to_begin, n_to_end
        self.is_on = False
        self._n_in_a_row = 0

    def look(self, sign: bool | None) -> None:  # a reading, no switch
        """Take another *sign*; None: neither for nor against it."""
        is_against = sign is not None and sign != self.is_on
        self._n_in_a_row = self._n_in_a_row + 1 if is_against else 0
        if self._n_in_a_row >= (self._n_to_end if self.is_on else self._n_to_begin):
            self.is_on, self._n_in_a_row = not self.is_on, 0


def _heat(reading: PowerReading) -> bool | None:
    """Whether the processor is too hot; None: neither that nor cool. A processor without a
    thermometer is hot while the system slows it down."""
    if reading.is_throttled:
        return True
    if reading.temperature_c is None:
        return False
    limit = reading.temperature_limit_c or HOT_C
    if reading.temperature_c >= limit:
        return True
    return False if reading.temperature_c <= limit - COOLED_C else None
