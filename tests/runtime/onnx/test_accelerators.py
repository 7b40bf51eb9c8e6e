"""An accelerator is used when it computes what the CPU does, and faster."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from spillover.models.catalogue import find
from spillover.runtime.backend import DecodeFailed, Rows
from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.accelerators import ACCELERATORS, Accelerator, to_try
from spillover.runtime.onnx.graph.prepare import prepare
from spillover.runtime.onnx.runners.device_runner import DeviceRunner
from spillover.runtime.onnx.runners.execution import (
    Execution,
    Needs,
    on_accelerator,
    on_cpu,
    runtime_version,
)
from spillover.runtime.onnx.runners.fastest_execution import fastest
from spillover.runtime.onnx.runners.runner import LogitsRows

CUDA = ACCELERATORS[0]
NEEDS = Needs(n_seq=2, n_ctx=256, n_vocab=4096, n_threads=1)
GRAPH = find("storyteller-onnx").path


@pytest.fixture(scope="module")
def cpu() -> Execution:
    return on_cpu(prepare(GRAPH, runtime_version=runtime_version()), NEEDS)


class Stranger(DeviceRunner):
    """Runs on the CPU too, but does something to the logits first."""

    def __init__(self, cpu: Execution, spoil: Callable[[LogitsRows], None]) -> None:
        super().__init__(cpu.session, cpu.layout, "cpu", n_seq=2, capacity=256)
        self._spoil = spoil

    def run(self, rows: list[Rows], logits: LogitsRows) -> None:  # type: ignore[override]  # narrower
        super().run(rows, logits)
        self._spoil(logits)


def accelerated(cpu: Execution, spoil: Callable[[LogitsRows], None]) -> Execution:
    return msgspec.structs.replace(cpu, device="CUDA", runner=Stranger(cpu, spoil))


def choose(
    cpu: Execution, open_one: Callable[[Accelerator], Execution], *, is_asked_for: bool = True
) -> tuple[Execution, tuple[str, ...]]:
    return fastest(cpu, [CUDA], open_one, NEEDS.n_vocab, is_asked_for=is_asked_for)


def test_one_that_gives_the_same_logits_is_used(cpu: Execution) -> None:
    chosen, notes = choose(cpu, lambda _: accelerated(cpu, lambda logits: None))
    assert chosen.device.startswith("CUDA (")
    assert notes == ()


def test_one_that_gives_others_is_not_however_fast(cpu: Execution) -> None:
    def spoil(logits: LogitsRows) -> None:
        logits[:] = logits[:, ::-1].copy()

    chosen, notes = choose(cpu, lambda _: accelerated(cpu, spoil))
    assert chosen.device.startswith("CPU")
    assert "other logits" in notes[0]


def test_one_that_gives_no_numbers_is_not(cpu: Execution) -> None:
    chosen, notes = choose(cpu, lambda _: accelerated(cpu, lambda logits: logits.fill(np.nan)))
    assert chosen.device.startswith("CPU")
    assert "other logits" in notes[0]


@pytest.mark.parametrize("error", [ModelError("no driver"), DecodeFailed("no kernel image")])
def test_one_that_fails_leaves_the_cpu_and_a_word(cpu: Execution, error: Exception) -> None:
    def fail(_: Accelerator) -> Execution:
        raise error

    chosen, notes = choose(cpu, fail)
    assert chosen.device.startswith("CPU")
    assert notes == (f"CUDA cannot run the model: {error}",)


def test_a_slower_one_is_used_only_when_it_is_asked_for(cpu: Execution) -> None:
    def wait(logits: LogitsRows) -> None:
        busy = np.ones((400, 400))
        for _ in range(40):
            busy = busy @ busy / 400

    chosen, _ = choose(cpu, lambda _: accelerated(cpu, wait), is_asked_for=False)
    assert chosen.device.startswith("CPU (")
    assert "CUDA takes" in chosen.device
    chosen, _ = choose(cpu, lambda _: accelerated(cpu, wait), is_asked_for=True)
    assert chosen.device.startswith("CUDA")


def test_an_accelerator_that_the_wheel_lacks_cannot_be_opened() -> None:
    with pytest.raises(ModelError):
        on_accelerator(CUDA, GRAPH, NEEDS)


def test_tensorrt_is_tried_only_by_name_and_others_only_where_the_wheel_has_them() -> None:
    wheel = [name for accelerator in ACCELERATORS for name in accelerator.providers]
    tried = [accelerator.key for accelerator in to_try("auto", wheel)]
    assert tried == ["cuda", "directml", "coreml", "openvino"]
    assert [accelerator.key for accelerator in to_try("tensorrt", wheel)] == ["tensorrt"]
    assert to_try("cpu", wheel) == []
    assert to_try("auto", ["AzureExecutionProvider", "CPUExecutionProvider"]) == []
