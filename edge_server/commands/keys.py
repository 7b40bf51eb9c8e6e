"""spillover keys: cloud providers' keys in the operating system's keyring."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.credentials.secret import is_header_text
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result

_EPILOG = """\b
Examples:
  spillover keys set openai                 prompts for the key, without echo
  spillover keys set openai < key.txt
  spillover keys list
  spillover keys delete openai

PROVIDER is the name of a [[provider]] table in the configuration file. A key in an environment
variable is used first: `spillover keys list` names the variable. A key is never taken from the
command line, where other users and the shell's history would see it.
"""

_PROVIDER = click.argument("provider", callback=lambda _ctx, _param, value: _checked(value))


@click.group("keys", epilog=_EPILOG)
def command() -> None:
    """Keep the keys of cloud providers in the operating system's keyring."""


@command.command("set")
@_PROVIDER
def set_key(provider: str) -> None:
    """Store the key of PROVIDER, from a prompt on a terminal or else from standard input."""
    _keys().store(provider, read_key(provider))
    print_note(f"the key of {provider} is in the keyring")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options([])
def list_keys(as_json: bool, config_flag: Path | None) -> None:
    """Show where the key of each company and each configured provider is, never the keys."""
    providers = load_config({}, config_flag).settings.cloud.providers
    found = _found(_keys(), providers)
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, place in found.items():
        print_result(f"{name:<{width}}  {place or '-'}")


@command.command("delete")
@_PROVIDER
def delete_key(provider: str) -> int:
    """Delete the key of PROVIDER from the keyring."""
    if _keys().delete(provider):
        print_note(f"the key of {provider} is no longer in the keyring")
        return 0
    print_note(f"spillover: the keyring has no key of {provider}")
    return 1


def _keys() -> Keys:
    return Keys(os.environ)


def read_key(provider: str) -> str:
    """A key from a prompt on a terminal, else from standard input. Raises ClickException."""
    if sys.stdin.isatty():
        key = str(click.prompt(f"Key of {provider}", hide_input=True, err=True)).strip()
    else:
        try:
            key = sys.stdin.readline().strip()
        except UnicodeDecodeError:
            key = ""
    if not is_header_text(key) or " " in key:
        raise click.ClickException(
            "this is not a key: it is empty, or it has spaces or odd characters"
        )
    return key


def _found(keys: Keys, providers: Iterable[ProviderSettings]) -> dict[str, str | None]:
    """Where the key of each provider is: the name of a variable, "keyring" or None."""
    stored = keys.names()
    variables = {c.name: c.key_variables for c in COMPANIES.values() if c.key_variables}
    variables |= {provider.name: provider.key_variables for provider in providers}
    places: dict[str, str | None] = {}
    for name in dict.fromkeys((*variables, *stored)):
        place = keys.variable_in_use(variables.get(name, ()))
        places[name] = place or ("keyring" if name in stored else None)
    return places


def _checked(name: str) -> str:
    if not name or not name[0].isalnum() or not is_header_text(name) or " " in name:
        raise click.BadParameter(f"{name!r} is not the name of a provider")
    return name
