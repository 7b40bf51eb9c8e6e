"""spillover calibrate: learn from labelled prompts how likely a model's answers are wrong."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.cloud_fallback.policy.calibration import Calibration, write_calibration
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.calibration import items as labelled
from spillover.edge_server.calibration import trace as tracing
from spillover.edge_server.calibration.fit import NotEnough, calibrate, windows_of
from spillover.edge_server.calibration.items import Item
from spillover.edge_server.calibration.measures import CurvePoint
from spillover.edge_server.calibration.replay import Summary
from spillover.edge_server.calibration.report import Measured, Report, report
from spillover.edge_server.calibration.trace import MAX_TOKENS, Trace, record, relabel
from spillover.edge_server.commands.loading import loaded_engine
from spillover.edge_server.commands.options import default_text, load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange
from spillover.edge_server.commands.quantize.result_file import check_result_file
from spillover.edge_server.config.settings import Settings
from spillover.runtime.errors import SpilloverError
from spillover.runtime.files.json_file import write_json
from spillover.runtime.sampling import Sampling

_EPILOG = """\b
Examples:
  spillover calibrate storyteller prompts.jsonl
  spillover calibrate ~/models/m.gguf prompts.jsonl --traces answers.jsonl --json
  spillover calibrate ~/models/m.gguf prompts.jsonl --reuse answers.jsonl

\b
Each line of PROMPTS is a JSON object: a prompt (or messages), and a check of the answer or a label:
  {"prompt": "What is the capital of Peru?", "check": {"contains": "Lima"}, "group": "capitals"}
  {"prompt": "What is 3 times 4?", "check": {"regex": "\\\\b12\\\\b"}}
  {"prompt": "Give me two names as JSON.", "check": {"json_schema": {"type": "array"}}}
  {"prompt": "Tell me a joke.", "label": "wrong"}
Checks: equals, contains, contains_any, not_contains, regex, json_schema, min_words, max_words,
ends, max_repeats; all that are given must hold. Give at least a hundred prompts, and prompts of one
kind the same "group", so that the report can say how good the calibration is.

Spillover finds the calibration by the model's weights, whatever the file of the model is called.
"""
_PROGRESS_EVERY = 50
_N_PARALLEL = 8
"""Prompts that are answered at the same time, where the settings do not say."""
_FILE = click.Path(path_type=Path, dir_okay=False)
_OLD_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("calibrate", epilog=_EPILOG)
@click.argument("model")
@click.argument("prompts", type=_OLD_FILE)
@click.option(
    "--output",
    type=_FILE,
    help="Write the calibration here.  [default: the data folder, where Spillover uses it]",
)
@click.option(
    "--traces",
    "traces_path",
    type=_FILE,
    help="Write the recorded answers here, for `spillover replay`.  [default: nowhere]",
)
@click.option(
    "--reuse",
    type=_OLD_FILE,
    help="Judge these recorded answers again instead of asking the model.",
)
@click.option(
    "--temperature",
    type=FiniteRange(0.0, 5.0),
    help=f"The same as in later use.  [default: {default_text(Sampling, 'temperature')}]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=MAX_TOKENS, show_default=True)
@click.option(
    "--cloud-accuracy",
    type=FiniteRange(0.0, 1.0),
    default=1.0,
    show_default=True,
    help="Share of the cloud's answers that are right, for the curve.",
)
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    callback=lambda _ctx, _param, codes: tuple(map(_language, codes)),
    help="A language (ISO 639-1) that the model speaks; repeatable.  [default: unknown]",
)
@click.option(
    "--tools/--no-tools",
    "can_call_tools",
    default=None,
    help="Whether the model can call tools.  [default: unknown]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@setting_options(["n_ctx", "n_parallel", "n_threads", "n_gpu_layers", "kv_cache_type"])
def command(
    model: str,
    prompts: Path,
    output: Path | None,
    traces_path: Path | None,
    reuse: Path | None,
    temperature: float | None,
    seed: int,
    max_tokens: int,
    cloud_accuracy: float,
    languages: tuple[str, ...],
    can_call_tools: bool | None,
    as_json: bool,
    config_flag: Path | None,
    **flags: Any,
) -> None:
    """Let MODEL answer PROMPTS, and fit the probability that its answers are wrong."""
    given = [prompts] if reuse is None else [prompts, reuse]
    check_result_file(traces_path, "--traces", given)
    check_result_file(output, "--output", given)
    items = labelled.read(prompts)
    settings = load_config(flags | {"model": model}, config_flag).settings
    if reuse is not None:
        traces = relabel(tracing.read(reuse), items)
    else:
        sampling = msgspec.structs.replace(settings.answers.sampling, seed=seed)
        if temperature is not None:
            sampling = msgspec.structs.replace(sampling, temperature=temperature)
        traces = _recorded(settings, items, sampling, max_tokens)
    if traces_path is not None:
        tracing.write(traces_path, traces)
        print_note(f"{len(traces)} answers written to {traces_path}")
    try:
        found, fitted = _fitted(traces, cloud_accuracy)
    except NotEnough as error:
        raise SpilloverError(f"no calibration was made: {error}") from error
    facts = {"languages": languages, "can_call_tools": can_call_tools}
    path = _write(msgspec.structs.replace(fitted, **facts), output, settings.cloud.folder)
    if as_json:
        print_json({"calibration": str(path), "report": found}, on_one_line=True)
    else:
        print_result(_as_text(found))
    print_note(f"calibration written to {path}")


def _language(code: str) -> str:
    if not re.fullmatch("[a-z]{2,3}", code):
        raise click.BadParameter(f"{code!r} is no code of a language such as en")
    return code


def _recorded(
    settings: Settings, items: Sequence[Item], sampling: Sampling, max_tokens: int
) -> list[Trace]:
    traces = []
    n_parallel = settings.engine.n_parallel or _N_PARALLEL
    how: Any = {"sampling": sampling, "max_tokens": max_tokens, "n_parallel": n_parallel}
    with loaded_engine(settings, n_parallel=n_parallel) as engine:
        for trace in record(engine, items, **how):
            traces.append(trace)
            if len(traces) % _PROGRESS_EVERY == 0:
                print_note(f"{len(traces)} of {len(items)} prompts answered")
    return traces


def _fitted(traces: Sequence[Trace], cloud_accuracy: float) -> tuple[Report, Calibration]:
    """The report, and the calibration from all answers. Raises NotEnough."""
    policy = PolicySettings()
    windows = [seen for t in traces if (seen := windows_of(t, policy)) is not None]
    name, key = (traces[0].model, traces[0].fingerprint) if traces else ("", "")
    found = report(name, traces, windows, policy, cloud_accuracy=cloud_accuracy)
    auroc = found.random_half.auroc if found.random_half else None
    return found, calibrate(windows, model=name, fingerprint=key, auroc=auroc)


def _write(calibration: Calibration, output: Path | None, data_dir: Path) -> Path:
    try:
        if output is None:
            return write_calibration(calibration, data_dir)
        write_json(output, calibration, indent=1)
    except OSError as error:
        raise SpilloverError(f"the calibration cannot be written: {error}") from error
    return output


# --- the report ---------------------------------------------------------------------------------


def _as_text(found: Report) -> str:
    """The report for people."""
    return "\n".join(_lines(found))


def _lines(found: Report) -> Generator[str]:
    yield f"{found.model}: {found.n_items} answers, {found.n_wrong} of them wrong"
    yield from found.notes
    for title, measured in (
        ("held-out half at random", found.random_half),
        ("held-out half of other families", found.other_families),
        ("at random, mixed families", found.mixed_families),
        ("at random, logprobs alone", found.confidence_only),
    ):
        if measured is not None:
            yield _measured(title, measured)
    if found.random_half is not None:
        yield ""
        yield from _curve(found.random_half.curve)
    if found.policy is not None:
        yield ""
        yield _policy(found.policy)


def _measured(title: str, measured: Measured) -> str:
    return (
        f"{title:<32} AUROC {_figure(measured.auroc)} "
        f"(first 24 tokens {_figure(measured.auroc_early)})  "
        f"ECE {measured.calibration_error:.3f}  Brier {measured.brier:.3f}  n {measured.n_items}"
    )


def _figure(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _curve(points: Sequence[CurvePoint]) -> Generator[str]:
    yield "hand over  threshold  right, kept  wrong caught  right disturbed  right, all"
    for p in points:
        yield (
            f"{p.handoff_rate:>9.0%}  {p.threshold:>9.3f}  {p.right_of_kept:>11.1%}  "
            f"{p.wrong_caught:>12.1%}  {p.right_disturbed:>15.1%}  {p.right_in_all:>10.1%}"
        )


def _policy(found: Summary) -> str:
    return (
        f"with the default thresholds, held-out half: {found.n_handed_over} of "
        f"{found.n_answers} answers are handed over, "
        f"{found.wrong_caught} of {found.n_wrong} wrong ones and {found.right_disturbed} right ones"
    )
