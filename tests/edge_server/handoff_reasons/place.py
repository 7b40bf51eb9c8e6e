"""A real server on a device that feels what a test says, and a handoff as its clients see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from tests.answers import REST
from tests.edge_server.conftest import Server
from tests.edge_server.routed import Answer
from tests.fakes.fake import Fake
from tests.fakes.script import Act

WHOLE = "A tale of the cloud's own."

SENSORS = '''
"""The device's sensors, as the system's files tell them: what a file of the test says. Their thread
waits for that file, so that a test says when the next reading comes."""
import json, os, threading, time
from pathlib import PurePosixPath
import psutil
from spillover.runtime.machine.system_files import SystemFiles

FILE = os.environ["READING"]
CALM = {"celsius": 40.0, "charge": 80, "plugged": True, "free": 0.5, "mhz": 2000.0}
MEMORY_KB = 8 << 20

def reading():
    if threading.current_thread().name == "sensors":
        until = time.monotonic() + 20
        while not os.path.exists(FILE) and time.monotonic() < until:
            time.sleep(0.002)
    try:
        with open(FILE) as file:
            return CALM | json.load(file)
    except (OSError, ValueError):
        return CALM

def files():
    now = reading()
    hwmon, power = "sys/class/hwmon/hwmon0", "sys/class/power_supply"
    clock = "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        f"{hwmon}/name": "coretemp",
        f"{hwmon}/temp1_input": str(int(now["celsius"] * 1000)),
        f"{hwmon}/temp1_max": "90000",
        f"{power}/BAT0/type": "Battery",
        f"{power}/BAT0/capacity": str(now["charge"]),
        f"{power}/AC/type": "Mains",
        f"{power}/AC/online": str(int(now["plugged"])),
        f"{clock}/scaling_cur_freq": str(int(now["mhz"] * 1000)),
        f"{clock}/cpuinfo_max_freq": "2000000",
        "proc/meminfo": f"MemTotal: {MEMORY_KB} kB\\n"
        f"MemAvailable: {int(now['free'] * MEMORY_KB)} kB",
    }

def paths():
    for name in files():
        yield name
        yield from map(str, PurePosixPath(name).parents)

read = SystemFiles.text
SystemFiles.text = lambda self, path: files().get(path) or read(self, path)
SystemFiles.matching = lambda self, pattern: sorted(
    {path for path in paths() if PurePosixPath(path).match(pattern)}
)
psutil.cpu_percent = lambda interval=None: 90.0
'''

CALM = """
[policy]
switched_off = ["low_confidence"]
local_tools = false
local_languages = ["en"]
sensor_dwell = 1
[[policy.rules]]
name = "clouds"
words = ["cumulus"]
[[policy.rules]]
name = "contracts"
pattern = 'C-\\d{6}'
"""
PATIENT = CALM.replace('["low_confidence"]', '["low_confidence", "repetition"]')
"""For answers that are not let end."""
LONG: dict[str, Any] = {"ignore_eos": True, "max_tokens": 900}


def said(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


class Place(Struct):
    """A server, its one provider and its device."""

    server: Server
    fake: Fake
    reading: Path

    def feels(self, **reading: Any) -> None:
        """Set what the sensors read from now on."""
        new = self.reading.with_suffix(".new")
        new.write_text(json.dumps(reading))
        new.rename(self.reading)


MakePlace = Callable[..., Place]


def check(
    place: Place,
    answer: Answer,
    reason: str,
    *,
    began: bool,
    signals: dict[str, float | None] | None = None,
) -> None:
    """One handoff for *reason* to the provider, with these *signals* (None: with any value), in
    one text; the records say the same."""
    assert answer.reasons == [reason], (answer, place.server.said)
    (handoff,) = answer.of("handoff")
    assert handoff["from"] == {"origin": "local", "model": "storyteller", "provider": None}
    assert handoff["to"] == {"origin": "cloud", "model": "cloud-model", "provider": "fake-1"}
    assert handoff["mode"] == "continue"
    for name, value in (signals or {}).items():
        assert handoff["signals"][name] == (handoff["signals"][name] if value is None else value)
    assert len(answer.of("seam")) == 1
    at = answer.at[answer.names.index("handoff")]
    said = answer.text[: min(at, handoff["keep_chars"])]
    assert bool(said) == began, answer
    if began:
        assert answer.text == (said + REST.lstrip() if said[-1:].isspace() else said + REST)
    else:
        assert answer.text == WHOLE
    assert answer.finish == ["stop"]
    assert answer.is_done
    record = httpx.get(f"{place.server.url}/v1/handoffs").json()["data"][0]
    assert (record["reason"], record["signals"]) == (reason, handoff["signals"])
    assert record["seam"]["seam"] == answer.of("seam")[0]["seam"]


def script(place: Place) -> None:
    place.fake.script(Act(text=WHOLE, rest=REST))
