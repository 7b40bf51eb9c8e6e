"""spillover consents: what was decided about providers for good."""

from __future__ import annotations

from pathlib import Path

import click

from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_result

_EPILOG = """\b
Examples:
  spillover consents
  spillover consents --forget claude

With fallback = "ask", a question can be answered for good: always, or never. What is forgotten is
asked again, by a running server too.
"""


@click.command("consents", epilog=_EPILOG)
@click.option("--forget", metavar="PROVIDER", help="Forget what was decided about a provider.")
@click.option("--forget-all", is_flag=True, help="Forget everything that was decided.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options([])
def command(forget: str | None, forget_all: bool, as_json: bool, config_flag: Path | None) -> None:
    """Show which providers may always, or may never, take over an answer."""
    folder = load_config({}, config_flag).settings.cloud.folder
    standing = StandingConsents(folder / FILE_NAME)
    if (forget_all or forget is not None) and not standing.forget(None if forget_all else forget):
        raise click.UsageError(f"nothing was decided about {forget or 'any provider'}")
    decisions = standing.all()
    if as_json:
        print_json(decisions)
    elif not decisions:
        print_result("nothing is decided for good")
    for decision in decisions if not as_json else ():
        word = "always" if decision.granted else "never"
        whose = f" (answers of {decision.owner})" if decision.owner else ""
        print_result(f"{decision.provider}: {word}, since {decision.at:%Y-%m-%d}{whose}")
