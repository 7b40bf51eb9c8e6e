"""Trees of /sys and /proc as some devices have them, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spillover.runtime.machine.system_files import SystemFiles, cpus_of

CPU = "sys/devices/system/cpu"
Tree = dict[str, str | int]


def written(root: Path, *trees: Mapping[str, str | int]) -> SystemFiles:
    for tree in trees:
        for path, content in tree.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{content}\n")
    return SystemFiles(root)


def cores(*groups: str, allowed: str = "") -> Tree:
    """Physical cores by their hardware threads, such as "0-1"."""
    threads = {group: sorted(cpus_of(group) or ()) for group in groups}
    n = sum(map(len, threads.values()))
    tree: Tree = {f"{CPU}/online": f"0-{n - 1}"}
    tree["proc/self/status"] = f"Name:\tpython\nCpus_allowed_list:\t{allowed or f'0-{n - 1}'}"
    for group, cpus in threads.items():
        for cpu in cpus:
            tree[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = group
    return tree


def memory(total_mib: int, available_mib: int) -> Tree:
    lines = f"MemTotal:       {total_mib * 1024} kB\nMemAvailable:   {available_mib * 1024} kB"
    return {"proc/meminfo": lines}


def zone(number: int, kind: str, celsius: float, **trips: float) -> Tree:
    """A thermal zone with its trip points, by their types."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    tree: Tree = {f"{folder}/type": kind, f"{folder}/temp": int(celsius * 1000)}
    for i, (trip, at) in enumerate(trips.items()):
        tree[f"{folder}/trip_point_{i}_type"] = trip
        tree[f"{folder}/trip_point_{i}_temp"] = int(at * 1000)
    return tree


def clock(current_khz: int, highest_khz: int, governor: str) -> Tree:
    folder = f"{CPU}/cpu0/cpufreq"
    return {
        f"{folder}/scaling_cur_freq": current_khz,
        f"{folder}/cpuinfo_max_freq": highest_khz,
        f"{folder}/scaling_governor": governor,
    }


def battery(status: str, percent: int, *, plugged: int) -> Tree:
    supplies = "sys/class/power_supply"
    return {
        f"{supplies}/BAT0/type": "Battery",
        f"{supplies}/BAT0/status": status,
        f"{supplies}/BAT0/capacity": percent,
        f"{supplies}/AC/type": "Mains",
        f"{supplies}/AC/online": plugged,
        f"{supplies}/hidpp_battery_0/type": "Battery",
        f"{supplies}/hidpp_battery_0/scope": "Device",
        f"{supplies}/hidpp_battery_0/status": "Discharging",
        f"{supplies}/hidpp_battery_0/capacity": 5,
    }


def jetson_orin_nano(root: Path) -> SystemFiles:
    return written(
        root,
        cores(*map(str, range(6))),
        memory(7_620, 5_100),
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/cpuinfo": "model name\t: ARMv8 Processor rev 1 (v8l)\n"
            "Features\t: fp asimd fphp asimdhp asimddp",
            "proc/self/cgroup": "0::/user.slice",
            "var/lib/nvpmodel/status": "pmode:0001",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >",
            "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0",
            "sys/class/thermal/cooling_device0/cur_state": 2,
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": 3,
        },
        zone(0, "cpu-thermal", 71.5, hot=95.0, critical=104.5),
        zone(1, "gpu-thermal", 90.0, critical=104.5),
        zone(2, "tj-thermal", 73.0, passive=85.0, hot=99.0, critical=104.5),
        clock(1_036_800, 1_510_400, "schedutil"),
    )


def raspberry_pi_5(root: Path) -> SystemFiles:
    return written(
        root,
        cores("0", "1", "2", "3"),
        memory(8_060, 7_000),
        {f"{CPU}/cpu{i}/cpu_capacity": 1024 for i in range(4)},
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cpuinfo": "Features\t: fp asimd asimddp\n\nModel\t\t: Raspberry Pi 5 Model B",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal",
            "sys/class/hwmon/hwmon0/temp1_input": 62_300,
            "sys/class/hwmon/hwmon0/temp1_crit": 110_000,
            "sys/class/hwmon/hwmon1/name": "rp1_adc",
            "sys/class/hwmon/hwmon1/temp1_input": 99_000,
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50004",
        },
        clock(2_400_000, 2_400_000, "ondemand"),
    )


def laptop(root: Path, *, status: str = "Discharging", plugged: int = 0) -> SystemFiles:
    return written(
        root,
        cores("0-1", "2-3", "4-5", "6-7"),
        memory(15_800, 9_000),
        battery(status, 42, plugged=plugged),
        {
            "proc/cpuinfo": "model name\t: A laptop's CPU @ 2.40GHz\nflags\t\t: fpu pni ssse3 avx",
            "sys/class/hwmon/hwmon3/name": "coretemp",
            "sys/class/hwmon/hwmon3/temp1_input": 61_000,
            "sys/class/hwmon/hwmon3/temp1_max": 100_000,
            "sys/class/hwmon/hwmon3/temp2_input": 72_000,
            "sys/class/hwmon/hwmon3/temp2_crit": 105_000,
            "sys/class/hwmon/hwmon4/name": "nvme",
            "sys/class/hwmon/hwmon4/temp1_input": 99_000,
            "sys/firmware/acpi/platform_profile": "low-power",
        },
        clock(800_000, 3_200_000, "powersave"),
    )


def container(root: Path, *, cpu_max: str = "250000 100000") -> SystemFiles:
    """With a quota of 2.5 processors and 4 GiB, half of it used, on a machine with 32 cores."""
    mib = 1 << 20
    return written(
        root,
        cores(*map(str, range(32))),
        memory(128_000, 100_000),
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": cpu_max,
            "sys/fs/cgroup/memory.max": 4_096 * mib,
            "sys/fs/cgroup/memory.current": 2_048 * mib,
            "sys/fs/cgroup/memory.stat": f"anon {512 * mib}\nactive_file {256 * mib}\n"
            f"inactive_file {256 * mib}\nfile_mapped 7",
        },
    )


def hybrid_intel(root: Path, *, allowed: str = "") -> SystemFiles:
    """Four performance cores with two threads each, and eight efficiency cores."""
    efficiency = tuple(map(str, range(8, 16)))
    return written(
        root,
        cores("0-1", "2-3", "4-5", "6-7", *efficiency, allowed=allowed),
        memory(32_000, 20_000),
        {"sys/devices/cpu_core/cpus": "0-7", "sys/devices/cpu_atom/cpus": "8-15"},
    )
