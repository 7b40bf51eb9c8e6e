"""spillover replay: what the policies would have done with recorded answers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click
import msgspec

from spillover.cloud_fallback.policy.calibration import (
    Calibration,
    find_calibration,
    pooled_calibration,
    read_calibration,
)
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.prompt import check_rules
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.calibration import trace as tracing
from spillover.edge_server.calibration.replay import Decision, Summary, replay, summary
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_result
from spillover.edge_server.errors import ConfigError

_EPILOG = """\b
Examples:
  spillover replay answers.jsonl
  spillover replay answers.jsonl --policy careful.toml --json

\b
`spillover calibrate --traces` writes TRACES. The policy file contains settings of the policies,
such as
  p_wrong_enter = 0.8
  switched_off = ["refusal"]
at the top level or in a table [policy]. No model is loaded; the same files always give the same
decisions.
"""
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("replay", epilog=_EPILOG)
@click.argument("traces", type=_FILE)
@click.option(
    "--policy",
    "policy_path",
    type=_FILE,
    help="Settings of the policies.  [default: the built-in ones]",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=_FILE,
    help="Calibration of the model.  [default: the one that Spillover uses for it]",
)
@click.option("--raw", is_flag=True, help="Use the calibration for models without their own.")
@click.option("--json", "as_json", is_flag=True, help="Print each decision as a line of JSON.")
@setting_options([])
def command(
    traces: Path,
    policy_path: Path | None,
    calibration_path: Path | None,
    raw: bool,
    as_json: bool,
    config_flag: Path | None,
) -> None:
    """Replay the recorded answers in TRACES through the policies."""
    if raw and calibration_path:
        raise click.UsageError("--raw and --calibration exclude each other: give one of them")
    settings = _settings(policy_path)
    given = _given(calibration_path)
    data_dir = load_config({}, config_flag).settings.cloud.folder
    decisions = []
    for trace in tracing.read(traces):
        own = None if raw else given or find_calibration(trace.fingerprint, data_dir)
        calibration = own or pooled_calibration(trace.n_params)
        decision = replay(trace, settings, LocalModel(calibration=calibration))
        decisions.append(decision)
        if as_json:
            print_json(decision, on_one_line=True)
        else:
            print_result(_line(decision))
    total = summary(decisions)
    if as_json:
        print_json({"summary": total}, on_one_line=True)
    else:
        print_result(_total(total))


def _settings(path: Path | None) -> PolicySettings:
    if path is None:
        return PolicySettings()
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        settings = msgspec.convert(table.get("policy", table), PolicySettings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    check_rules(settings)
    return settings


def _given(path: Path | None) -> Calibration | None:
    if path is None:
        return None
    found = read_calibration(path)
    if found is None:
        raise ConfigError(
            f"{path} is not a calibration: make one with `spillover calibrate --output`"
        )
    return found


def _line(decision: Decision) -> str:
    label = {None: "", True: "  (wrong)", False: "  (right)"}[decision.wrong]
    reason = decision.reason
    if reason is None:
        return f"{decision.id}: local, {decision.n_tokens} tokens{label}"
    where = "at its end" if decision.at_end else f"after {decision.at_token} tokens"
    kept = "" if reason.keep_chars is None else f", keeps {reason.keep_chars} characters"
    readings = ", ".join(f"{name} {value:.3g}" for name, value in reason.signals.items())
    return (
        f"{decision.id}: {reason.code} {where} of {decision.n_tokens}"
        f"{kept}{f' [{readings}]' if readings else ''}{label}"
    )


def _total(found: Summary) -> str:
    reasons = ", ".join(f"{code} {n}" for code, n in found.by_reason.items()) or "none"
    lines = [
        f"{found.n_handed_over} of {found.n_answers} answers handed over: {reasons}",
        f"{found.n_held_tokens} of {found.n_tokens} tokens held back for a while",
    ]
    if found.n_wrong is not None:
        n_right = found.n_answers - found.n_wrong
        lines.append(
            f"{found.wrong_caught} of {found.n_wrong} wrong answers handed over, "
            f"{found.right_disturbed} of {n_right} right ones"
        )
    return "\n".join(lines)
