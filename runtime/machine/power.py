"""Battery, temperature, clock rate and power mode."""

from __future__ import annotations

import re
from collections.abc import Generator

from msgspec import Struct

from spillover.runtime.machine.system_files import SystemFiles

_PROCESSOR_SENSORS = (
    "coretemp", "k10temp", "zenpower", "cpu", "soc", "tj", "acpitz", "thermal", "x86_pkg_temp",
)  # fmt: skip
"""Prefixes of the names of the processor's sensors and thermal zones, in lower case."""

_PROCESSOR_COOLERS = ("processor", "cpufreq", "thermal-cpufreq")
"""The same of what slows the processor down."""

_THROTTLED_NOW = 0b1110
"""Of a Raspberry Pi's firmware: the clock rate is capped, throttled, or at the soft limit of
temperature. Bit 0 is a low voltage."""

_CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq"


class PowerReading(Struct, frozen=True, kw_only=True):
    """A reading. None: there is no such sensor, or its value is unknown, which never counts as
    bad."""

    on_battery: bool | None = None
    battery_share: float | None = None
    temperature_c: float | None = None
    """The hottest of the processor's sensors, in °C."""
    temperature_limit_c: float | None = None
    """The sensor's own limit."""
    frequency_share: float | None = None
    """Clock rate of the processor as a share of its highest."""
    is_throttled: bool = False
    """The system slows the processor down because of its temperature or supply."""


def read_power(files: SystemFiles) -> PowerReading:
    on_battery, charge = _battery(files)
    celsius, limit = _temperature(files)
    return PowerReading(
        on_battery=on_battery,
        battery_share=charge,
        temperature_c=celsius,
        temperature_limit_c=limit,
        frequency_share=_frequency_share(files),
        is_throttled=_is_throttled(files),
    )


def read_power_mode(files: SystemFiles) -> str:
    """What the owner chose between speed and power, as the system names it; empty if unknown."""
    modes = {
        "nvpmodel": _nvpmodel(files),
        "profile": files.text("sys/firmware/acpi/platform_profile"),
        "governor": files.text(f"{_CPUFREQ}/scaling_governor"),
    }
    return ", ".join(f"{kind} {mode}" for kind, mode in modes.items() if mode)


def _nvpmodel(files: SystemFiles) -> str | None:
    """A Jetson's power mode, such as "15W"."""
    found = re.fullmatch(r"pmode:0*(\d+)", files.text("var/lib/nvpmodel/status") or "")
    if found is None:
        return None
    named = rf"<\s*POWER_MODEL\s+ID={found[1]}\s+NAME=(\S+)\s*>"
    name = re.search(named, files.text("etc/nvpmodel.conf") or "")
    return name[1] if name else f"mode {found[1]}"


# --- battery --------------------------------------------------------------------------------


def _battery(files: SystemFiles) -> tuple[bool | None, float | None]:
    """Whether the machine runs on its battery, and how full that is. Batteries of other devices,
    such as a mouse, do not count."""
    supplies = files.matching("sys/class/power_supply/*")
    own = [s for s in supplies if files.text(f"{s}/scope") != "Device"]
    batteries = [s for s in own if files.text(f"{s}/type") == "Battery"]
    if not batteries:
        return None, None
    charges = [files.number(f"{battery}/capacity") for battery in batteries]
    known = [min(max(charge, 0), 100) for charge in charges if charge is not None]
    share = sum(known) / len(known) / 100 if known else None
    plugs = [files.number(f"{s}/online") for s in own if s not in batteries]
    states = {files.text(f"{battery}/status") for battery in batteries}
    if any(plugs) or "Charging" in states:
        return False, share
    if "Discharging" in states or 0 in plugs:
        return True, share
    return (False if states & {"Full", "Not charging"} else None), share


# --- temperature ----------------------------------------------------------------------------


def _temperature(files: SystemFiles) -> tuple[float | None, float | None]:
    """The hottest processor sensor and its limit."""
    found = [*_hwmon(files), *_zones(files)]
    return max(found, key=lambda pair: pair[0], default=(None, None))


def _hwmon(files: SystemFiles) -> Generator[tuple[float, float | None]]:
    for name in files.matching("sys/class/hwmon/hwmon*/name"):
        if not (files.text(name) or "").lower().startswith(_PROCESSOR_SENSORS):
            continue
        for path in files.matching(f"{name.removesuffix('name')}temp*_input"):
            sensor = path.removesuffix("input")
            celsius = _celsius(files, path)
            high, critical = (_celsius(files, f"{sensor}{kind}") for kind in ("max", "crit"))
            if celsius is not None:
                yield celsius, _limit(high, critical)


def _zones(files: SystemFiles) -> Generator[tuple[float, float | None]]:
    for zone in files.matching("sys/class/thermal/thermal_zone*"):
        if not (files.text(f"{zone}/type") or "").lower().startswith(_PROCESSOR_SENSORS):
            continue
        celsius = _celsius(files, f"{zone}/temp")
        if celsius is None:
            continue
        trips = {
            files.text(path): _celsius(files, f"{path.removesuffix('type')}temp")
            for path in files.matching(f"{zone}/trip_point_*_type")
        }
        yield celsius, _limit(trips.get("hot"), trips.get("critical"))


def _celsius(files: SystemFiles, path: str) -> float | None:
    """A temperature that is possible, from thousandths of a degree."""
    value = files.number(path)
    return value / 1000 if value is not None and 0 < value < 150_000 else None


def _limit(high: float | None, critical: float | None) -> float | None:
    """A sensor's "high", or else a little less than its "critical"; absurd values do not count."""
    if high is not None and high > 50.0:
        return high
    return critical - 5.0 if critical is not None and critical > 55.0 else None


# --- clock rate -----------------------------------------------------------------------------


def _frequency_share(files: SystemFiles) -> float | None:
    """Of the fastest core, because idle ones rest."""
    policies = files.matching("sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    shares = [
        current / highest
        for policy in policies
        if (current := files.number(f"{policy}/scaling_cur_freq"))
        and (highest := files.number(f"{policy}/cpuinfo_max_freq"))
    ]
    return max(shares, default=None)


def _is_throttled(files: SystemFiles) -> bool:
    for name in files.matching("sys/class/thermal/cooling_device*/type"):
        if (files.text(name) or "").lower().startswith(_PROCESSOR_COOLERS):
            state = files.number(f"{name.removesuffix('type')}cur_state")
            if state:
                return True
    for path in files.matching("sys/devices/platform/soc*/*firmware/get_throttled"):
        try:
            if int(files.text(path) or "0", 16) & _THROTTLED_NOW:
                return True
        except ValueError:
            continue
    return False
