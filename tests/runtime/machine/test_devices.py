"""What is known of some devices, by the files that their systems show."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from spillover.runtime.machine import device
from spillover.runtime.machine.bandwidth import measure_bandwidth
from spillover.runtime.machine.cgroup import cpu_quota, group_memory
from spillover.runtime.machine.cores import read_cores
from spillover.runtime.machine.device import DeviceReport, describe_device, memory_bandwidth
from spillover.runtime.machine.memory import OomKills, read_memory
from spillover.runtime.machine.power import PowerReading, read_power
from spillover.runtime.machine.system_files import SystemFiles, cpus_of
from tests.runtime.machine.trees import (
    CPU,
    container,
    cores,
    hybrid_intel,
    jetson_orin_nano,
    laptop,
    memory,
    raspberry_pi_5,
    written,
)

MIB = 1 << 20


def n_cores(report: DeviceReport) -> tuple[int, int, int]:
    return report.n_cores_physical, report.n_cores_usable, report.n_threads_default


def test_a_jetson_shares_its_memory_with_its_gpu_and_tells_its_power_mode(tmp_path: Path) -> None:
    report = describe_device(jetson_orin_nano(tmp_path))
    assert report.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert report.gpus == ("NVIDIA Jetson Orin Nano Developer Kit (integrated GPU)",)
    assert report.gpu_shares_memory
    assert n_cores(report) == (6, 6, 6)
    assert (report.ram_bytes, report.ram_available_bytes) == (7_620 * MIB, 5_100 * MIB)
    assert report.power_mode == "nvpmodel 7W, governor schedutil"
    assert (report.power.temperature_c, report.power.temperature_limit_c) == (73.0, 99.0)
    assert report.power.is_throttled
    assert report.power.on_battery is None


def test_a_raspberry_pi_tells_that_its_firmware_throttles_it(tmp_path: Path) -> None:
    report = describe_device(raspberry_pi_5(tmp_path))
    assert report.cpu == "Raspberry Pi 5 Model B"
    assert n_cores(report) == (4, 4, 4)
    assert report.gpus == ()
    assert not report.gpu_shares_memory
    assert report.power == PowerReading(
        temperature_c=62.3, temperature_limit_c=105.0, frequency_share=1.0, is_throttled=True
    )


def test_a_laptop_on_battery_counts_its_own_battery_only(tmp_path: Path) -> None:
    report = describe_device(laptop(tmp_path))
    assert n_cores(report) == (4, 8, 4)
    assert report.power_mode == "profile low-power, governor powersave"
    assert report.power == PowerReading(
        on_battery=True,
        battery_share=0.42,
        temperature_c=72.0,
        temperature_limit_c=100.0,
        frequency_share=0.25,
    )


@pytest.mark.parametrize(
    ("status", "plugged", "on_battery"),
    [
        ("Charging", 1, False),
        ("Not charging", 1, False),
        ("Discharging", 1, False),
        ("Charging", 0, False),  # an unplugged port, and another that charges
        ("Unknown", 0, True),
    ],
)
def test_the_plug_decides_whether_a_battery_is_used(
    tmp_path: Path, status: str, plugged: int, *, on_battery: bool
) -> None:
    assert read_power(laptop(tmp_path, status=status, plugged=plugged)).on_battery is on_battery


def test_a_container_has_its_quota_and_its_limit(tmp_path: Path) -> None:
    report = describe_device(container(tmp_path))
    assert n_cores(report) == (32, 2, 2)
    assert report.cpu_quota == 2.5
    assert (report.ram_bytes, report.ram_available_bytes) == (4_096 * MIB, 2_560 * MIB)


def test_a_quota_of_half_a_processor_is_one_thread_and_max_is_none(tmp_path: Path) -> None:
    assert describe_device(container(tmp_path, cpu_max="50000 100000")).n_threads_default == 1
    assert describe_device(container(tmp_path, cpu_max="max 100000")).cpu_quota is None


def test_the_groups_above_limit_a_process_too(tmp_path: Path) -> None:
    mount = "sys/fs/cgroup"
    files = written(
        tmp_path,
        memory(10_000, 9_000),
        {
            "proc/self/cgroup": "0::/user.slice/app.service",
            f"{mount}/user.slice/cpu.max": "150000 100000",
            f"{mount}/user.slice/app.service/cpu.max": "400000 100000",
            f"{mount}/user.slice/memory.max": 800 * MIB,
            f"{mount}/user.slice/memory.current": 300 * MIB,
            f"{mount}/user.slice/app.service/memory.max": "max",
        },
    )
    assert cpu_quota(files) == 1.5
    found = read_memory(files)
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (800 * MIB, 500 * MIB)


@pytest.mark.parametrize("most", ["max", 900 * MIB])
def test_nothing_is_planned_beyond_where_a_group_is_slowed_down(
    tmp_path: Path, most: str | int
) -> None:
    """Only memory.max counted, so that a model under systemd's MemoryHigh ran at a crawl."""
    mount = "sys/fs/cgroup"
    files = written(
        tmp_path,
        memory(10_000, 9_000),
        {
            "proc/self/cgroup": "0::/user.slice/app.service",
            f"{mount}/user.slice/memory.max": most,
            f"{mount}/user.slice/memory.high": 700 * MIB,
            f"{mount}/user.slice/memory.current": 300 * MIB,
            f"{mount}/user.slice/app.service/memory.max": 800 * MIB,
            f"{mount}/user.slice/app.service/memory.high": "max",
            f"{mount}/user.slice/app.service/memory.current": 100 * MIB,
        },
    )
    found = read_memory(files)
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (700 * MIB, 400 * MIB)


def test_version_1_of_control_groups_limits_a_container_too(tmp_path: Path) -> None:
    mount = "sys/fs/cgroup"
    files = written(
        tmp_path,
        {
            # Its path outside, which it cannot see.
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/",
            f"{mount}/cpu,cpuacct/cpu.cfs_quota_us": 200_000,
            f"{mount}/cpu,cpuacct/cpu.cfs_period_us": 100_000,
            f"{mount}/memory/memory.limit_in_bytes": 600 * MIB,
            f"{mount}/memory/memory.usage_in_bytes": 500 * MIB,
            f"{mount}/memory/memory.stat": f"total_inactive_file {100 * MIB}",
        },
    )
    assert cpu_quota(files) == 2.0
    group = group_memory(files)
    assert group is not None
    assert (group.limit_bytes, group.available_bytes) == (600 * MIB, 200 * MIB)
    unlimited = {
        f"{mount}/cpu,cpuacct/cpu.cfs_quota_us": -1,
        f"{mount}/memory/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000,
    }
    written(tmp_path, unlimited)
    assert (cpu_quota(files), group_memory(files)) == (None, None)


@pytest.mark.parametrize("of_group", [True, False])
def test_a_process_that_the_system_has_ended_long_ago_ends_no_other(
    tmp_path: Path, *, of_group: bool
) -> None:
    """Each kill of a worker counted as a lack of memory, once anything had been ended for that."""

    def set_to(n: int) -> SystemFiles:
        counts = {"proc/vmstat": f"oom_kill {n}", "proc/self/cgroup": "0::/app"}
        events = {"sys/fs/cgroup/app/memory.events": f"oom 1\noom_kill {n}"} if of_group else {}
        return written(tmp_path, {**counts, **events})

    kills = OomKills(set_to(3))
    assert not kills.are_new
    set_to(4)
    assert kills.are_new
    kills.look()
    assert kills.are_new, "it came shortly before the look"
    kills.look()
    assert not kills.are_new
    if of_group:
        written(tmp_path, {"proc/vmstat": "oom_kill 99"})
        assert not kills.are_new, "that was another program's"


@pytest.mark.parametrize(
    ("allowed", "n_usable", "n_threads"),
    [("", 16, 4), ("0-3,8-15", 12, 2), ("8-11", 4, 4), ("0", 1, 1)],
)
def test_a_hybrid_processor_computes_with_the_performance_cores_that_are_allowed(
    tmp_path: Path, allowed: str, n_usable: int, n_threads: int
) -> None:
    report = describe_device(hybrid_intel(tmp_path, allowed=allowed))
    assert n_cores(report) == (12, n_usable, n_threads)
    assert report.n_cores_efficiency == 8


def test_the_small_cores_of_arm_are_told_by_their_capacity(tmp_path: Path) -> None:
    capacities = [300, 300, 300, 300, 870, 870, 1024, 1024]
    tree = {f"{CPU}/cpu{i}/cpu_capacity": c for i, c in enumerate(capacities)}
    found = read_cores(written(tmp_path, cores(*map(str, range(8))), tree))
    assert found is not None
    assert (found.n_efficiency, found.n_threads) == (4, 4)


@pytest.mark.parametrize(
    ("online", "allowed", "idle_s"),
    [
        ("0-3", {0, 1, 2, 3}, 15),
        ("0-3", {2, 3}, 12),
        ("0,2,4,6", {0, 2, 4, 6}, 15),  # without the second threads of a core
        ("0,3-5", {3, 5}, 10),  # a Jetson TX2 that saves power
        ("0-3", {8, 9, 10, 11}, 15),  # a container (LXC) that shows its own four, renumbered
        ("", {1}, 2),
    ],
)
def test_idle_cores_are_told_apart_by_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: str, allowed: set[int], idle_s: int
) -> None:
    """They were counted by their places, so that answers began with half of the threads, or one."""
    files = written(tmp_path, {f"{CPU}/online": online})
    times = [SimpleNamespace(idle=2.0**i) for i in range(4)]
    monkeypatch.setattr(device, "_THIS_MACHINE", files)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    assert device._idle_s() == idle_s


def test_what_a_machine_does_not_tell_is_unknown(tmp_path: Path) -> None:
    files = SystemFiles(tmp_path)
    assert (read_cores(files), read_memory(files), cpu_quota(files)) == (None, None, None)
    assert read_power(files) == PowerReading()
    report = describe_device(files)
    assert report.n_threads_default >= 1
    assert 0 < report.ram_available_bytes <= report.ram_bytes


def test_files_with_nonsense_are_unknown(tmp_path: Path) -> None:
    nonsense = "\xff-\n-3"
    files = jetson_orin_nano(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in ("cgroup", "type"):
            path.write_text(nonsense)
    assert read_cores(files) is None
    assert read_power(files) == PowerReading()
    assert [cpus_of(text) for text in ("3-1", "a", "0-99999999", "1,-2", "")] == [None] * 5


def test_this_machine_can_be_described() -> None:
    report = describe_device()
    assert 1 <= report.n_threads_default <= report.n_cores_usable
    assert 0 < report.ram_available_bytes <= report.ram_bytes


def test_the_bandwidth_of_memory_is_measured_once(tmp_path: Path) -> None:
    report = describe_device(laptop(tmp_path / "device"))
    measured = memory_bandwidth(report, measure_bandwidth, tmp_path)
    assert measured.bandwidth_bytes_per_s is not None
    assert measured.bandwidth_bytes_per_s > 1e8
    assert memory_bandwidth(report, lambda: 1.0, tmp_path) == measured
