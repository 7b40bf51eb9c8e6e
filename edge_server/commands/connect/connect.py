"""spillover connect: configure a provider, and try it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.cloud_fallback.errors import AuthFailed, ProviderError
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.inquiry import ServerFacts
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.prices import Prices
from spillover.edge_server.commands.connect.target import ANY_MODEL, provider_at
from spillover.edge_server.commands.connect.trial import Trial, try_out, with_model
from spillover.edge_server.commands.keys import read_key
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_note, print_result
from spillover.edge_server.commands.quantities import FiniteRange
from spillover.edge_server.config import config_file, provider_tables
from spillover.edge_server.config.config import load
from spillover.edge_server.errors import ConfigError
from spillover.runtime.errors import SpilloverError

_EPILOG = """\b
Examples:
  spillover connect http://192.168.1.20:8000        a machine next door
  spillover connect localhost:11434 --model qwen3   Ollama on this machine
  spillover connect anthropic                       asks for the key, if there is none yet
  spillover connect openai --print                  only shows what would be written
  spillover connect anthropic --remove              undoes it

A provider is tried with one short request ("Reply with one word: ready") before anything is
written. A key goes into the operating system's keyring, or comes from a variable: never into the
file. Unless the file says otherwise, you are asked before an answer leaves the device.
"""
_USD = FiniteRange(0, 1_000_000)


@click.command("connect", epilog=_EPILOG)
@click.argument("target", metavar="URL|COMPANY")
@click.option(
    "--model",
    default="",
    help="The provider's model.  [default: its only one, or a Spillover's first]",
)
@click.option("--name", default="", help="What to call it.  [default: by its address]")
@click.option("--dialect", default="", help="Its wire format.  [default: told by the address]")
@click.option("--key-variable", default="", help="Variable with its key.  [default: the usual]")
@click.option(
    "--fallback",
    type=click.Choice(["ask", "auto"]),
    help="When it may take over.  [default: as configured, else ask]",
)
@click.option("--input-usd", type=_USD, help="Dollars per million tokens of prompts.")
@click.option("--output-usd", type=_USD, help="Dollars per million tokens of answers.")
@click.option("--print", "only_print", is_flag=True, help="Write nothing, and send no prompt.")
@click.option("--remove", is_flag=True, help="Take the provider out of the file again.")
@setting_options([])
def command(
    target: str,
    model: str,
    name: str,
    dialect: str,
    key_variable: str,
    fallback: str | None,
    input_usd: float | None,
    output_usd: float | None,
    only_print: bool,
    remove: bool,
    config_flag: Path | None,
) -> None:
    """Add a provider to the configuration, once it has answered a short request."""
    file = config_file.target(config_flag, os.environ)
    if not only_print:
        config_file.expect_writable(file)
    is_new = not file.is_file()
    config = load({}, environ=os.environ, without_file=True) if is_new else load_config({}, file)
    cloud, text = config.settings.cloud, "" if is_new else file.read_bytes().decode("utf-8-sig")
    known = {provider.name: provider for provider in cloud.providers}
    fields = {"name": name, "dialect": dialect, "model": model, "key_variable": key_variable}
    if remove:
        gone = name or _name_of(target, known)
        _remove(file, text, gone, cloud, only_print=only_print)
        return
    wanted = known.get(target) or provider_at(target, **fields)
    if (prices := _prices(input_usd, output_usd)) is not None:
        wanted = msgspec.structs.replace(wanted, prices=prices)
    with _reached(wanted, cloud, only_print=only_print) as (engine, facts):
        wanted = with_model(wanted, facts)
        new_text = _changed(text, wanted, known.get(wanted.name), cloud, fallback)
        if only_print:
            print_note(f"{file} would be:")
            print_result(new_text.rstrip("\n"))
            return
        done = _try(engine.with_settings(wanted), cloud)
    kind = f" ({facts.kind})" if facts is not None and facts.kind else ""
    print_result(f"{_at(wanted)}{kind} answers: {done.text.strip()!r}")
    print_result(_measured(wanted, done))
    if new_text == text:
        print_note(f"{file} has {wanted.name} already: nothing was changed")
        return
    config_file.write(file, new_text)
    print_note(f"{file} has {wanted.name} now; to undo: spillover connect {wanted.name} --remove")
    if "auto" in (fallback, cloud.fallback if fallback is None else ""):
        print_note("it may take over without asking, because fallback is auto")


@contextmanager
def _reached(
    wanted: ProviderSettings, cloud: CloudSettings, *, only_print: bool
) -> Generator[tuple[CloudEngine, ServerFacts | None]]:
    """An engine, and what the server says about itself. The user is asked for a key where one is
    missing; it is kept only if the block succeeds."""
    keys = Keys(os.environ)
    with closing(Http(proxy=cloud.proxy or None)) as http:
        engine = build_engine(wanted, keys=keys, http=http)
        try:
            yield engine, _facts(engine, only_print=only_print)
            return
        except AuthFailed as error:
            if keys.find(wanted) is not None:
                raise _unwritten(engine, error) from error
            if not sys.stdin.isatty():
                advice = "" if engine.problem else _KEYLESS
                raise _unwritten(engine, error, advice) from error
        keys.store(wanted.name, read_key(wanted.name))
        try:
            engine = build_engine(wanted, keys=keys, http=http)
            yield engine, _facts(engine, only_print=False)
        except BaseException:
            keys.delete(wanted.name)  # it was of no use
            raise


def _facts(engine: CloudEngine, *, only_print: bool) -> ServerFacts | None:
    """What the server says about itself. Raises AuthFailed, and SpilloverError for all else."""
    try:
        if engine.problem is not None:
            raise AuthFailed(engine.name, engine.problem)
        return engine.api.contact()
    except ProviderError as error:
        if only_print:
            print_note(f"spillover: {error}")
            return None
        if isinstance(error, AuthFailed):
            raise
        raise _unwritten(engine, error) from error


_KEYLESS = ": call this at a terminal to type a key, or name its variable with --key-variable"


def _unwritten(engine: CloudEngine, error: ProviderError, advice: str = "") -> SpilloverError:
    return SpilloverError(f"{_at(engine.settings)}: {error.cause}; nothing was written{advice}")


def _try(engine: CloudEngine, cloud: CloudSettings) -> Trial:
    """Ask for a word."""
    try:
        with closing(Budget.at(cloud.ledger, cloud.budget)) as budget:
            return try_out(engine, budget)
    except ProviderError as error:
        raise _unwritten(engine, error) from error


def _measured(wanted: ProviderSettings, done: Trial) -> str:
    return (
        f"first text after {done.seconds * 1000:.0f} ms; {done.leg.prompt_tokens} tokens asked, "
        f"{done.leg.completion_tokens} answered; {_cost(wanted, done)}"
    )


def _cost(wanted: ProviderSettings, done: Trial) -> str:
    prices = wanted.known_prices
    if prices is None:
        return (
            "what that costs is not known here: give --input-usd and --output-usd from the "
            "company's price list"
        )
    if prices.is_free:
        return "free: a machine of your own"
    usual = prices.cost_usd(1_000, 300)
    return f"that cost ${done.leg.cost_usd:.6f}; 1,000 tokens asked and 300 answered: ${usual:.4f}"


def _at(settings: ProviderSettings) -> str:
    model = "" if settings.model == ANY_MODEL else f"/{settings.model}"
    return f"{settings.name}{model} at {settings.address}"


def _prices(input_usd: float | None, output_usd: float | None) -> Prices | None:
    if input_usd is None and output_usd is None:
        return None
    if input_usd is None or output_usd is None:
        raise click.UsageError("give both --input-usd and --output-usd")
    today = datetime.now(UTC).date()
    return Prices(input_usd=input_usd, output_usd=output_usd, priced_on=today)


def _is_same(old: ProviderSettings | None, wanted: ProviderSettings) -> bool:
    """Whether the file has the provider already; what only the file sets does not count."""
    if old is None:
        return False
    fields = ("dialect", "address", "model")
    return all(getattr(old, field) == getattr(wanted, field) for field in fields)


def _changed(
    text: str,
    wanted: ProviderSettings,
    old: ProviderSettings | None,
    cloud: CloudSettings,
    fallback: str | None,
) -> str:
    """The file's new text, which is the old one where nothing has to change. Raises ConfigError."""
    if fallback is None and cloud.fallback == "never":
        if provider_tables.sets_fallback(text):
            print_note('fallback is "never": nothing is handed over until it is "ask" or "auto"')
        else:
            fallback = "ask"
    if fallback is not None and fallback != cloud.fallback:
        text = provider_tables.with_fallback(text, fallback)
    if _is_same(old, wanted):
        return text
    if old is not None:
        raise ConfigError(
            f"there is a provider {_at(old)} already: choose another --name, or remove it with "
            f"spillover connect {old.name} --remove"
        )
    return provider_tables.added(text, _table(wanted))


def _table(wanted: ProviderSettings) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    fields = msgspec.structs.fields(ProviderSettings)
    found = {field.name: getattr(wanted, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    table = {key: value for key, value in found.items() if value and value != defaults[key]}
    if wanted.prices is not None:
        table["prices"] = {
            key: value
            for key, value in msgspec.structs.asdict(wanted.prices).items()
            if value is not None
        }
    return table


def _name_of(target: str, known: dict[str, ProviderSettings]) -> str:
    """The name of a provider by that name, or else by its address."""
    try:
        return target if target in known else provider_at(target).name
    except ConfigError:
        return target


def _remove(file: Path, text: str, name: str, cloud: CloudSettings, *, only_print: bool) -> None:
    if name not in {provider.name for provider in cloud.providers}:
        print_note(f"{file} has no provider {name}: nothing was changed")
        return
    new_text = provider_tables.removed(text, name)
    if only_print:
        print_note(f"{file} would be:")
        print_result(new_text.rstrip("\n"))
        return
    config_file.write(file, new_text)
    print_note(f"{file} has {name} no more")
    if Keys(os.environ).is_stored(name):
        print_note(f"its key stays in the keyring: spillover keys delete {name}")
    # The next provider of that name may be another machine, to which nobody has agreed.
    if StandingConsents(cloud.folder / FILE_NAME).forget(name):
        print_note("what was decided for good about its answers is forgotten")
