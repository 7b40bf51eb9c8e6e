"""spillover calibrate: learn from labelled prompts how sure a model is when it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.cloud_fallback.policy import calibration_store
from spillover.cloud_fallback.policy.calibration_store import CalibrationStore, fingerprint
from spillover.cloud_fallback.policy.learning import items as labelled
from spillover.cloud_fallback.policy.learning import trace as tracing
from spillover.cloud_fallback.policy.learning.calibrating import NotEnough, calibrate
from spillover.cloud_fallback.policy.learning.items import Item
from spillover.cloud_fallback.policy.learning.measures import CurvePoint
from spillover.cloud_fallback.policy.learning.recording import MAX_TOKENS, record
from spillover.cloud_fallback.policy.learning.report import Report, report
from spillover.cloud_fallback.policy.learning.trace import Trace
from spillover.cloud_fallback.policy.learning.windows import windows_of
from spillover.cloud_fallback.policy.replaying import Summary
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.commands.loading import one_conversation
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.request_values import default_text
from spillover.edge_server.commands.talk import tell
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import SpilloverError
from spillover.runtime.sampling import Sampling

_EPILOG = """\b
Examples:
  spillover calibrate storyteller prompts.jsonl
  spillover calibrate ~/models/m.gguf prompts.jsonl --traces answers.jsonl --json

\b
PROMPTS has one JSON object a line: a prompt (or messages) and a check of the answer, or a label:
  {"prompt": "What is the capital of Peru?", "check": {"contains": "Lima"}, "group": "capitals"}
  {"prompt": "What is 3 times 4?", "check": {"regex": "\\\\b12\\\\b"}}
  {"prompt": "Give me two names as JSON.", "check": {"json_schema": {"type": "array"}}}
  {"prompt": "Tell me a joke.", "label": "wrong"}
Checks: equals, contains, contains_any, not_contains, regex, json_schema, min_words, max_words,
ends, max_repeats; all that are given must hold. A hundred lines are the least that tells how good
the calibration is; prompts of one kind have the same "group".

The result is found again by the model's weights, whatever its file is called.
"""
_PROGRESS_EVERY = 50


@click.command("calibrate", epilog=_EPILOG)
@click.argument("model")
@click.argument("prompts", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the calibration here.  [default: the user's own folder, where it is in force]",
)
@click.option(
    "--traces",
    "traces_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the recorded answers here, for `spillover replay`.  [default: nowhere]",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0.0, 5.0),
    help=f"As in later use.  [default: {default_text(Sampling, 'temperature')}]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=MAX_TOKENS, show_default=True)
@click.option(
    "--cloud-accuracy",
    type=click.FloatRange(0.0, 1.0),
    default=1.0,
    show_default=True,
    help="Share of right answers of the cloud, for the curve.",
)
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    help="A language (ISO 639-1) that the model speaks; repeatable.  [default: not known]",
)
@click.option(
    "--tools/--no-tools",
    "can_call_tools",
    default=None,
    help="Whether the model can call tools.  [default: not known]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@setting_options(["n_ctx", "n_threads", "n_gpu_layers", "kv_cache_type"])
def command(
    model: str,
    prompts: Path,
    output: Path | None,
    traces_path: Path | None,
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
    """Let MODEL answer PROMPTS, and fit the probability that an answer is wrong."""
    items = labelled.read(prompts)
    settings = load_config(flags | {"model": model}, config_flag).settings
    sampling = Sampling(seed=seed)
    if temperature is not None:
        sampling = msgspec.structs.replace(sampling, temperature=temperature)
    with one_conversation(settings) as engine:
        card = engine.card
        traces = _recorded(engine, items, sampling, max_tokens)
    if traces_path is not None:
        tracing.write(traces_path, traces)
        tell(f"{len(traces)} answers written to {traces_path}")
    policy = PolicySettings()
    windows = [seen for t in traces if (seen := windows_of(t, policy)) is not None]
    try:
        found = report(card.name, traces, windows, policy, cloud_accuracy=cloud_accuracy)
        held_out = found.random_half
        fitted = calibrate(
            windows,
            model=card.name,
            fingerprint=fingerprint(card),
            auroc=held_out.auroc if held_out else None,
        )
        fitted = msgspec.structs.replace(fitted, languages=languages, can_call_tools=can_call_tools)
    except NotEnough as error:
        raise SpilloverError(f"no calibration was made: {error}") from error
    try:
        if output is None:
            output = CalibrationStore().write(card, fitted)
        else:
            calibration_store.write(output, fitted)
    except OSError as error:
        raise SpilloverError(f"the calibration cannot be written: {error}") from error
    if as_json:
        click.echo(msgspec.json.encode({"calibration": str(output), "report": found}))
    else:
        click.echo(as_text(found))
    tell(f"calibration written to {output}")


def _recorded(
    engine: TextEngine, items: Sequence[Item], sampling: Sampling, max_tokens: int
) -> list[Trace]:
    traces = []
    for trace in record(engine, items, sampling=sampling, max_tokens=max_tokens):
        traces.append(trace)
        if len(traces) % _PROGRESS_EVERY == 0:
            tell(f"{len(traces)} of {len(items)} prompts answered")
    return traces


def as_text(found: Report) -> str:
    """The report for people."""
    lines = [
        f"{found.model}: {found.n_items} answers, {found.n_wrong} of them wrong",
        *found.notes,
    ]
    for title, measured in (
        ("held-out half at random", found.random_half),
        ("held-out half of other families", found.other_families),
        ("at random, logprobs alone", found.confidence_only),
    ):
        if measured is not None:
            lines.append(
                f"{title:<32} AUROC {_figure(measured.auroc)} "
                f"(first 24 tokens {_figure(measured.auroc_early)})  "
                f"ECE {measured.calibration_error:.3f}  Brier {measured.brier:.3f}  "
                f"n {measured.n_items}"
            )
    if found.random_half is not None:
        lines += ["", *_curve(found.random_half.curve)]
    if found.policy is not None:
        lines += ["", _policy_line(found.policy)]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _curve(points: Sequence[CurvePoint]) -> list[str]:
    rows = [
        f"{p.handoff_rate:>9.0%}  {p.threshold:>9.3f}  {p.right_of_kept:>11.1%}  "
        f"{p.wrong_caught:>12.1%}  {p.right_disturbed:>15.1%}  {p.right_in_all:>11.1%}"
        for p in points
    ]
    return ["hand over  threshold  right, kept  wrong caught  right disturbed  right, all", *rows]


def _policy_line(found: Summary) -> str:
    return (
        f"with the default thresholds, held-out half: {found.n_handed_over} of "
        f"{found.n_answers} answers are handed over, "
        f"{found.wrong_caught} of {found.n_wrong} wrong ones and {found.right_disturbed} right ones"
    )
