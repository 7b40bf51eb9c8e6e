"""spillover budget: what the cloud has cost, and what it may."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import StatementLine
from spillover.cloud_fallback.spending.prices import NANO
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_result
from spillover.edge_server.wire import spending

_EPILOG = """\b
Examples:
  spillover budget
  spillover budget --json

Days and months are those of UTC. "reserved" is set aside for answers under way, of all programs
that use this device's record. A running server gives the same at GET /v1/budget. Limits are set in
the table [budget] of the configuration file.
"""
_HEAD = ("provider", "period", "spent", "reserved", "limit", "tokens", "reserved", "limit", "until")


@click.command("budget", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options([])
def command(as_json: bool, config_flag: Path | None) -> None:
    """Show what was spent in the cloud today and this month, and the limits."""
    cloud = load_config({}, config_flag).settings.cloud
    budget = Budget.at(cloud.ledger, cloud.budget)
    try:
        lines = budget.statement([provider.name for provider in cloud.providers])
    finally:
        budget.close()
    if as_json:
        print_json(spending.listed(lines))
    else:
        print_result(as_table(lines))


def as_table(lines: list[StatementLine]) -> str:
    """A line for each provider and period; money in dollars."""
    rows = [_HEAD, *map(_row, lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 1, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(line: StatementLine) -> tuple[str, ...]:
    return (
        line.provider or "all",
        line.period,
        _usd(line.spent.nano_usd),
        _usd(line.reserved.nano_usd),
        _usd(line.limit_nano_usd),
        str(line.spent.tokens),
        str(line.reserved.tokens),
        "-" if line.limit_tokens is None else str(line.limit_tokens),
        f"{line.until:%Y-%m-%d}",
    )


def _usd(nano_usd: int | None) -> str:
    return "-" if nano_usd is None else f"${nano_usd / NANO:.4f}"
