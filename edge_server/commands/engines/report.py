"""What `spillover engines` and `spillover doctor` say about the engines for a model."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.runtime.conversions.choice import EngineChoice, choose_engine, look_up
from spillover.runtime.conversions.record import EngineRates, Fidelity, library_version
from spillover.runtime.options import EngineOptions

_NAMES = {"llama": "llama.cpp", "onnx": "ONNX Runtime"}


class EnginesReport(Struct, frozen=True, kw_only=True):
    """What is known about a model; *llama* and *onnx* are None where they were not measured."""

    engine: str
    """llama or onnx: what serves the model."""
    reason: str
    llama: EngineRates | None = None
    onnx: EngineRates | None = None
    fidelity: Fidelity | None = None
    conversion: str | None = None
    """The folder of the conversion, if there is one."""
    conversion_bytes: int = 0


def report_on(path: Path, options: EngineOptions, most_bytes: int) -> EnginesReport:
    """Measures nothing. *most_bytes*: memory that the model may take."""
    choice: EngineChoice = choose_engine(path, options, most_bytes)
    if choice.engine == "onnx" and choice.conversion is None:
        return EnginesReport(engine=choice.engine, reason=choice.reason)
    found = look_up(path, options)
    conversion, measured = found.conversion, found.comparison
    folder = choice.conversion or found.folder(options)
    return EnginesReport(
        engine=choice.engine,
        reason=choice.reason,
        llama=measured.llama if measured is not None else None,
        onnx=measured.onnx if measured is not None else None,
        fidelity=conversion.fidelity if conversion is not None else None,
        conversion=str(folder) if folder is not None else None,
        conversion_bytes=conversion.size_bytes if conversion is not None else 0,
    )


def lines_of(report: EnginesReport) -> list[str]:
    """For people to read; the first line is the choice."""
    lines = [f"{_NAMES[report.engine]}: {report.reason}"]
    if report.llama is not None and report.onnx is not None:
        lines.append(_speed(f"llama.cpp ({library_version('llama-cpp-python')})", report.llama))
        lines.append(_speed(f"ONNX Runtime ({library_version('onnxruntime')})", report.onnx))
    if report.fidelity is not None and not report.fidelity.difference:
        size = f"{report.conversion_bytes / 2**20:.0f} MiB" if report.conversion else "removed"
        lines.append(
            f"conversion: KL divergence {report.fidelity.divergence:.4f} from llama.cpp's logits "
            f"at {report.fidelity.n_positions} positions, {size}"
        )
    return lines


def _speed(name: str, rates: EngineRates) -> str:
    return (
        f"{name}: reads {rates.prefill:.0f} tokens/s, writes {rates.decode_1:.1f} alone and "
        f"{rates.decode_4:.1f} in 4 answers"
    )
