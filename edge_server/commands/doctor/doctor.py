"""spillover doctor: whether Spillover can run here, and what to do if not."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click

from spillover.edge_server.commands.doctor import checkup
from spillover.edge_server.commands.doctor.checkup import Findings, gigabytes
from spillover.edge_server.commands.engines.report import lines_of
from spillover.edge_server.commands.loading import note_if_slow
from spillover.edge_server.commands.options import load_config, model_argument, setting_options
from spillover.edge_server.commands.output import print_json, print_result
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.runtime.machine.device import DeviceReport, describe_device
from spillover.runtime.machine.llama_trial import GpuMemory

_EPILOG = """\b
Examples:
  spillover doctor
  spillover doctor ~/models/m.gguf --json

The exit code is 1 if something keeps Spillover from running, or if no provider can take over
although fallback is "ask" or "auto". Providers are then reached, without a prompt.
"""


@click.command("doctor", epilog=_EPILOG)
@model_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options([])
def command(as_json: bool, config_flag: Path | None, **flags: Any) -> int:
    """Check the device, the libraries and MODEL (default: the one pulled last, or the bundled)."""
    findings = _examine(flags, config_flag)
    if as_json:
        print_json(checkup.as_builtins(findings))
    else:
        print_result("\n".join(_report(findings)))
    return 0 if findings.runs and findings.falls_back else 1


def _examine(flags: dict[str, Any], config_flag: Path | None) -> Findings:
    findings = Findings(python=platform.python_version(), device=describe_device())
    settings = _settings(findings, flags, config_flag)
    checkup.check_packages(findings)
    if findings.runs:
        checkup.check_device(findings, settings)
        checkup.check_library(findings, settings)
    if not findings.runs:
        return findings
    from spillover.edge_server.commands.doctor.budget_check import check_budget  # slow
    from spillover.edge_server.commands.doctor.models_check import check_models
    from spillover.edge_server.commands.doctor.provider_check import check_providers
    from spillover.edge_server.commands.prefixes import prefixes_on_disk

    checkup.check_address(findings, settings)
    with note_if_slow("reaching the providers …"):
        check_providers(findings, settings, os.environ)
    check_budget(findings, settings)
    check_models(findings, settings)
    findings.prefixes = prefixes_on_disk(settings.engine)
    checkup.check_model(findings, settings)
    if findings.model is not None:
        with note_if_slow("loading the model for a self-test …"):
            checkup.check_engine(findings, settings)
    return findings


def _settings(findings: Findings, flags: dict[str, Any], config_flag: Path | None) -> Settings:
    """The settings in force, or the defaults if a setting is wrong."""
    try:
        config = load_config(flags, config_flag)
    except ConfigError as error:
        findings.add(error, "correct the setting; `spillover config` lists them all", blocks=True)
        return Settings()
    findings.config_file = str(config.file) if config.file else None
    return config.settings


def _report(findings: Findings) -> Generator[str]:
    yield from (f"{name:<12}{value}" for name, value in _facts(findings))
    if findings.problems:
        yield ""
    for problem in findings.problems:
        is_serious = problem.blocks or problem.stops_fallback
        yield f"{'PROBLEM' if is_serious else 'note'}: {problem.what}"
        yield f"  what to do: {problem.todo}"
    yield ""
    if not findings.runs:
        yield "Spillover cannot run yet."
    elif not findings.falls_back:
        yield "Spillover can run here, but no provider can take over from the local model."
    else:
        yield "Spillover can run here."


def _facts(findings: Findings) -> Generator[tuple[str, str]]:
    if findings.device is not None:
        yield from _device_facts(findings.device)
    yield "python", findings.python
    yield "libraries", ", ".join(f"{n} {v}" for n, v in findings.packages.items() if v)
    if findings.llama_cpp is not None:
        yield "llama.cpp", findings.llama_cpp
        yield from (("", _gpu_memory(gpu)) for gpu in findings.gpus)
    if findings.onnx_providers:
        yield "onnxruntime", ", ".join(findings.onnx_providers)
    yield "config file", findings.config_file or "none"
    if findings.prefixes:
        yield "prefixes", findings.prefixes
    yield "fallback", findings.fallback
    yield from (("", f"{name}: {said}") for name, said in findings.providers.items())
    yield from (("spent", spent) for spent in findings.spent)
    yield from ((f"[{name}]", found) for name, found in findings.models.items())
    yield "model", findings.model or "none"
    if findings.engines is not None:
        first, *more = lines_of(findings.engines)
        yield "engine", first
        yield from (("", line) for line in more)
    test = findings.self_test
    if test is not None:
        yield "", test.card.description
        if test.card.layout:
            yield "layout", test.card.layout
            yield "", test.card.layout_reason
        yield "runs on", test.card.device
        yield (
            "self-test",
            f"passed: loaded in {test.load_s:.1f} s, "
            f"first token {test.time_to_first_token_s * 1000:.0f} ms later",
        )


def _device_facts(device: DeviceReport) -> Generator[tuple[str, str]]:
    yield "system", device.os
    if device.board:
        yield "board", device.board
    yield "processor", device.cpu
    efficiency = device.n_cores_efficiency
    kinds = f", {efficiency} of them efficiency cores" if efficiency else ""
    quota = "" if device.cpu_quota is None else f", quota {device.cpu_quota:g}"
    yield (
        "threads",
        f"{device.n_threads_default} of {device.n_cores_usable} usable cores "
        f"({device.n_cores_physical} physical{kinds}{quota})",
    )
    free, total = gigabytes(device.ram_available_bytes), gigabytes(device.ram_bytes)
    speed = device.bandwidth_bytes_per_s
    yield (
        "memory",
        f"{free} free of {total}" + (f", read at {speed / 1e9:.1f} GB/s" if speed else ""),
    )
    yield "gpu", ", ".join(device.gpus) or "none found"
    if device.gpu_shares_memory:
        yield "", "shares the memory above"
    yield "power", ", ".join(_power(device)) or "unknown"


def _power(device: DeviceReport) -> Generator[str]:
    reading = device.power
    if reading.on_battery is not None:
        yield "on battery" if reading.on_battery else "plugged in"
    if reading.battery_share is not None:
        yield f"battery {reading.battery_share:.0%}"
    if reading.temperature_c is not None:
        limit = reading.temperature_limit_c
        yield f"{reading.temperature_c:.0f} °C" + (f" (limit {limit:.0f})" if limit else "")
    if reading.frequency_share is not None:
        yield f"clock at {reading.frequency_share:.0%}"
    if reading.is_throttled:
        yield "slowed down by the system"
    if device.power_mode:
        yield device.power_mode


def _gpu_memory(gpu: GpuMemory) -> str:
    return f"{gpu.name}: {gigabytes(gpu.free_bytes)} free of {gigabytes(gpu.total_bytes)}"
