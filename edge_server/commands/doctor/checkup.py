"""The checks of `spillover doctor`: each adds what it found, and the remedy for each problem."""

from __future__ import annotations

import importlib.metadata
import time
from contextlib import closing
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.commands.engines.report import EnginesReport, report_on
from spillover.edge_server.commands.loading import (
    default_memory,
    default_options,
    model_entry,
    start_engine,
)
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.models.entry import CatalogueError, verify
from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import Delta
from spillover.runtime.machine.device import DeviceReport, describe_device, memory_bandwidth
from spillover.runtime.machine.instructions import processor_flags
from spillover.runtime.machine.llama_trial import REMEDY, GpuMemory, find_library, try_llama
from spillover.runtime.machine.system_files import SystemFiles
from spillover.runtime.request import GenerationRequest

PACKAGES = (
    "spillover",
    "onnxruntime",
    "numpy",
    "flask",
    "uvicorn",
    "h11",
    "msgspec",
    "jinja2",
    "psutil",
    "click",
)
_LLAMA = "llama-cpp-python"
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
REBUILD = (
    f'CFLAGS="{_NO_AMX}" CXXFLAGS="{_NO_AMX}" '
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)
REINSTALL = "reinstall Spillover: make setup, or pip install --force-reinstall spillover"


class Problem(Struct, frozen=True, kw_only=True):
    what: str
    todo: str
    blocks: bool
    """Whether Spillover cannot run until it is solved."""
    stops_fallback: bool = False
    """Whether no provider can take over until it is solved, although one should."""


class SelfTest(Struct, frozen=True, kw_only=True):
    """How long the first load and answer took, in seconds."""

    load_s: float
    time_to_first_token_s: float
    card: ModelCard


class Findings(Struct, kw_only=True):
    """What the checks have found so far."""

    python: str
    config_file: str | None = None
    device: DeviceReport | None = None
    packages: dict[str, str | None] = {}
    llama_cpp: str | None = None
    """The processor features that llama.cpp was built for."""
    gpus: tuple[GpuMemory, ...] = ()
    """Those that llama.cpp can use."""
    onnx_providers: tuple[str, ...] = ()
    """What ONNX Runtime can run models on."""
    model: str | None = None
    models: dict[str, str] = {}
    """What is known of each [[local_model]]."""
    engines: EnginesReport | None = None
    """Which engine serves the model, and why."""
    self_test: SelfTest | None = None
    prefixes: str = ""
    """What of the prefix cache is kept on disk, and how much there is."""
    fallback: str = ""
    """The setting, and the names of the providers."""
    providers: dict[str, str] = {}
    """What each provider that was reached says about itself."""
    spent: list[str] = []
    """A line for each limit of the budgets."""
    problems: list[Problem] = []

    @property
    def runs(self) -> bool:
        return not any(problem.blocks for problem in self.problems)

    @property
    def falls_back(self) -> bool:
        """Whether a provider can take over, or none is to."""
        return not any(problem.stops_fallback for problem in self.problems)

    def add_for_fallback(self, what: str, todo: str) -> None:
        self.problems.append(Problem(what=what, todo=todo, blocks=False, stops_fallback=True))

    def add(self, what: object, todo: str, *, blocks: bool) -> None:
        self.problems.append(Problem(what=str(what), todo=todo, blocks=blocks))


def check_packages(findings: Findings) -> None:
    """Versions of the libraries."""
    for name in (*PACKAGES, _LLAMA):
        try:
            findings.packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.packages[name] = None
            if name in PACKAGES and name != "spillover":  # a source folder on the path has none
                findings.add(f"{name} is not installed", REINSTALL, blocks=True)


def check_device(findings: Findings, settings: Settings) -> None:
    """Measure how fast memory is read, once per device, and look what the engines can use."""
    from spillover.runtime.machine.bandwidth import measure_bandwidth  # slow
    from spillover.runtime.onnx.library import ort

    device, cache_dir = findings.device or describe_device(), settings.engine.cache_dir
    findings.device = memory_bandwidth(device, measure_bandwidth, cache_dir)
    findings.onnx_providers = tuple(ort.get_available_providers())


def check_library(findings: Findings, settings: Settings) -> None:
    """Whether llama.cpp can run on this processor; tried in another process, because it may
    crash."""
    if not has_llama():
        findings.add(
            "llama.cpp is not installed: ONNX Runtime runs the models", INSTALL_LLAMA, blocks=False
        )
        return
    library = find_library()
    if library is None:
        findings.add("the library of llama-cpp-python is missing", REINSTALL, blocks=True)
        return
    trial = try_llama(library, processor_flags(SystemFiles()))
    findings.llama_cpp = trial.system_info or None
    findings.gpus = trial.gpus
    if trial.problem:
        what = trial.problem.removesuffix(f": {REMEDY}")
        findings.add(what, REMEDY, blocks=settings.engine.engine == "llama")
        return
    device = findings.device
    if device is not None and device.gpus and not trial.offloads:
        findings.add(
            f"llama.cpp was built without support for {', '.join(device.gpus)}",
            'to use it: CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall '
            "--no-cache-dir --no-binary llama-cpp-python llama-cpp-python",
            blocks=False,
        )


def check_address(findings: Findings, settings: Settings) -> None:
    """Whether `spillover serve` may listen on the configured address."""
    from spillover.edge_server.web.server import check_bind  # slow

    try:
        check_bind(settings)
    except ConfigError as error:
        findings.add(error, "change host, port or api_keys", blocks=True)


def check_model(findings: Findings, settings: Settings) -> None:
    """Whether the model file exists, is intact, and fits into memory."""
    try:
        entry = model_entry(settings)
        verify(entry)
    except (SpilloverError, CatalogueError, OSError) as error:
        findings.add(error, "choose another model", blocks=True)
        return
    findings.model = str(entry.path)
    findings.engines = report_on(
        entry.path.absolute(), default_options(settings), default_memory(settings)
    )
    size_bytes = entry.size_bytes or entry.n_bytes_on_disk
    device = findings.device
    if device is not None and size_bytes > device.ram_available_bytes:
        findings.add(
            f"{entry.path} has {gigabytes(size_bytes)}, but only "
            f"{gigabytes(device.ram_available_bytes)} of memory is free",
            "close other programs, or use a smaller model or quantization",
            blocks=False,
        )


def check_engine(findings: Findings, settings: Settings) -> None:
    """Whether the model loads in a worker and answers."""
    began = time.monotonic()
    try:
        with start_engine(settings) as engine:
            card = engine.wait_ready()
            loaded = time.monotonic()
            request = GenerationRequest(prompt="Once", max_tokens=4, ignore_eos=True)
            with closing(engine.stream(request)) as events:
                next((event for event in events if isinstance(event, Delta)), None)
            answered = time.monotonic()
    except SpilloverError as error:
        findings.add(error, "read the log above, or try the bundled model", blocks=True)
        return
    findings.self_test = SelfTest(
        load_s=loaded - began, time_to_first_token_s=answered - loaded, card=card
    )
    for warning in card.warnings:
        findings.add(warning, "see docs/configuration.md", blocks=False)
    crashed = card.repacking_fits and not card.use_extra_bufts
    if settings.engine.use_extra_bufts and crashed:
        findings.add(
            "llama.cpp crashed while repacking weights, so repacking is off and prompts are read "
            "more slowly (compilers older than GCC 13 break AMX)",
            f"build it without AMX: {REBUILD}",
            blocks=False,
        )


def gigabytes(n_bytes: int) -> str:
    """A size for people to read."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def as_builtins(findings: Findings) -> dict[str, Any]:
    """For JSON; *ok* is what the exit code says."""
    found: dict[str, Any] = msgspec.to_builtins(findings)
    return {"ok": findings.runs and findings.falls_back, **found}
