"""Fits the calibration for models without their own, and measures it on what was left out.

    python -m tests.edge_server.calibration.pooled [--write]

It reads recorded answers of three models: SmolLM2-135M-Instruct as GGUF (Q4_1) and as ONNX (int4),
and the bundled storyteller, to the everyday prompts, and of the storyteller to its own prompts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, get_args

import msgspec
import numpy as np

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.local_policy import rate_limit
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import CapacityCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.calibration import items, measures, trace
from spillover.edge_server.calibration.fit import (
    FITTED,
    POOLED,
    Windows,
    calibrate,
    name_hash,
    windows_of,
)
from spillover.edge_server.calibration.replay import Summary, replay, summary
from spillover.edge_server.calibration.trace import Trace
from spillover.runtime.files.json_file import write_json

HERE = Path(__file__).parent
PATH = HERE.parents[2] / "cloud_fallback" / "policy" / "calibrations" / "pooled.json"
PROMPTS = HERE / "everyday_prompts.jsonl"
SMOLLM2, STORYTELLER = 134_515_008, 5_800_000
RECORDED = {
    "SmolLM2 GGUF": (HERE / "smollm2_gguf.jsonl.xz", SMOLLM2),
    "SmolLM2 ONNX": (HERE / "smollm2_onnx.jsonl.xz", SMOLLM2),
    "storyteller": (HERE / "storyteller_everyday.jsonl.xz", STORYTELLER),
    "storyteller, its own prompts": (HERE / "storyteller_traces.jsonl.xz", STORYTELLER),
}
SETTINGS = PolicySettings(switched_off=get_args(CapacityCode))
POSITIONS = (8, 12, 24, 48)


class Answer(NamedTuple):
    """One recorded answer."""

    source: str
    trace: Trace
    windows: Windows


Key: TypeAlias = Callable[[Answer], str]


def family(answer: Answer) -> str:
    return answer.windows.group


def template(answer: Answer) -> str:
    """The way of asking: what an id begins with."""
    return answer.windows.id.rpartition("/")[0]


def base_model(answer: Answer) -> str:
    return answer.source.split()[0].rstrip(",")


def answers() -> list[Answer]:
    return list(_answers())


def _answers() -> Generator[Answer]:
    everyday = items.read(PROMPTS)
    for source, (path, n_params) in RECORDED.items():
        traces = list(trace.read(path))
        if "own" not in source:
            traces = trace.relabel(traces, everyday)
        for one in traces:
            windows = windows_of(msgspec.structs.replace(one, n_params=n_params), SETTINGS)
            if windows is not None:
                yield Answer(source, one, windows)


def fitted(train: Sequence[Answer], names: tuple[str, ...] = POOLED) -> Calibration:
    made = calibrate([answer.windows for answer in train], names=names, model="pooled")
    seen = sorted({answer.trace.fingerprint for answer in train})
    return msgspec.structs.replace(made, fitted_to=tuple(seen))


def left_out(
    found: Sequence[Answer], key: Key, names: tuple[str, ...] = POOLED
) -> list[Calibration]:
    """For each answer, the calibration that is fitted without its group."""
    by_group = {
        group: fitted([answer for answer in found if key(answer) != group], names)
        for group in {key(answer) for answer in found}
    }
    return [by_group[key(answer)] for answer in found]


def p_at(answer: Answer, calibration: Calibration, row: int) -> float:
    values = dict(zip(POOLED, answer.windows.rows[row].tolist(), strict=True))
    return calibration.p_wrong(values) or 0.0


def row_at(answer: Answer, n_tokens: int) -> int | None:
    """The window at *n_tokens*; None: the answer is shorter."""
    positions = answer.windows.rows[:-1, POOLED.index("position")]
    at = np.flatnonzero(np.abs(np.expm1(positions * np.log1p(64)) - n_tokens) < 2.5)
    return int(at[0]) if len(at) else None


def quality_at(
    pairs: Sequence[tuple[Answer, Calibration]], n_tokens: int | None
) -> tuple[float, float, int]:
    """AUROC, ECE and the number of answers at so many tokens, or at the end."""
    wrong, p_wrong = [], []
    for answer, calibration in pairs:
        row = -1 if n_tokens is None else row_at(answer, n_tokens)
        if row is not None:
            wrong.append(answer.windows.wrong)
            p_wrong.append(p_at(answer, calibration, row))
    labels, p = np.array(wrong, bool), np.array(p_wrong)
    return measures.auroc(labels, p) or 0.0, measures.calibration_error(labels, p), len(p)


def decided(
    pairs: Sequence[tuple[Answer, Calibration]], settings: PolicySettings = SETTINGS
) -> Summary:
    """What the policies do with the answers of a model, which come in a random order. Where the
    calibration has not seen the model, it is limited as on a device that does not know it."""
    by_chance = sorted(pairs, key=lambda pair: name_hash(pair[0].windows.id, "order"))
    key = pairs[0][0].trace.fingerprint
    with tempfile.TemporaryDirectory() as folder:
        knows_level = pairs[0][1].knows_level(key)
        rate = rate_limit(settings, key, Path(folder), knows_level=knows_level)
        return summary(
            replay(
                a.trace, settings, LocalModel(calibration=c.for_model(RECORDED[a.source][1])), rate
            )
            for a, c in by_chance
        )


def _print(title: str, pairs: Sequence[tuple[Answer, Calibration]]) -> None:
    cells = [quality_at(pairs, n) for n in (*POSITIONS, None)]
    done = decided(pairs)
    assert done.n_wrong is not None
    n_right = done.n_answers - done.n_wrong
    figures = " | ".join(f"{auroc:.2f} · {ece:.2f}" for auroc, ece, _ in cells)
    caught = (done.wrong_caught or 0) / max(done.n_wrong, 1)
    disturbed = (done.right_disturbed or 0) / max(n_right, 1)
    counts = f"{done.n_wrong} of {done.n_answers}"
    print(f"| {title} | {counts} | {figures} | {caught:.0%} | {disturbed:.0%} |")


def report(found: list[Answer]) -> None:
    """The tables of docs/handoff-quality.md."""
    for title, key in (("family", family), ("template", template), ("model", base_model)):
        names = FITTED if key is base_model else POOLED
        pairs = list(zip(found, left_out(found, key, names), strict=True))
        for source in RECORDED:
            _print(f"{source}, {title}", [pair for pair in pairs if pair[0].source == source])
    own = [answer for answer in found if "own" in answer.source]
    for title, key in (("family", family),):
        pairs = list(zip(own, left_out(own, key, FITTED), strict=True))
        _print(f"own calibration, {title}", pairs)
        _print("in its domain", [pair for pair in pairs if pair[0].windows.group.startswith("in")])


def main() -> None:
    found = answers()
    if "--write" in sys.argv:
        write_json(PATH, fitted(found), indent=1)
    else:
        report(found)


if __name__ == "__main__":
    main()
