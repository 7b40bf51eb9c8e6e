"""spillover launch: start a client that asks this endpoint."""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.edge_server.commands.launch.clients import CLIENTS, Client, Setup
from spillover.edge_server.commands.launch.endpoint import Endpoint, find_endpoint, url_of
from spillover.edge_server.commands.launch.own_server import own_server
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_note, print_result
from spillover.edge_server.config.settings import Settings
from spillover.runtime.errors import SpilloverError

_EPILOG = """\b
Examples:
  spillover launch                          the clients, and which are installed
  spillover launch claude                   Claude Code, against the server that runs here
  spillover launch claude -- -p "Say hi."   after -- come the client's own arguments
  spillover launch codex --serve ~/models/qwen3-8b-Q4_K_M.gguf --n-ctx 32768
  spillover launch opencode --model local   a provider may take over, but this device begins
  spillover launch aider --print            only shows what to set

No file of the client is changed. Without --serve a server has to run already: `spillover serve`.
"""
_PLACEHOLDER = "YOUR_API_KEY"
_PATIENCE_S = 5.0
"""For the end of a client after a signal; then it is killed."""


class _Launch(click.Command):
    """Tells who writes the client's options among ours where they belong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = f"{error.format_message()} Put the client's own options after --."
            raise click.UsageError(hint, ctx) from error


@click.command("launch", cls=_Launch, epilog=_EPILOG)
@click.argument("client", required=False)
@click.argument("arguments", nargs=-1)
@click.option("--url", default="", help="Address of the server.  [default: as configured]")
@click.option(
    "--model",
    default="",
    help="Name that the client asks for; auto, local, private and cloud say who writes."
    "  [default: the model served]",
)
@click.option(
    "--serve",
    "served",
    metavar="MODEL",
    help="Serve MODEL on a free port for as long as the client runs; its log is dropped.",
)
@click.option("--print", "only_print", is_flag=True, help="Start nothing; print what to set.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the server's API keys; the first one is used.",
)
@setting_options(["n_ctx", "fallback"])
def command(
    client: str | None,
    arguments: tuple[str, ...],
    url: str,
    model: str,
    served: str | None,
    only_print: bool,
    api_key_file: Path | None,
    config_flag: Path | None,
    **flags: Any,
) -> int:
    """Start CLIENT so that it asks this server; without CLIENT, list those that are known.

    --n-ctx and --fallback are for the server that --serve starts.
    """
    if client is None:
        print_result(as_table())
        return 0
    wanted = _known(client)
    if served is not None and (url or only_print):
        raise click.UsageError("--serve goes neither with --url nor with --print")
    if served is None and any(value is not None for value in flags.values()):
        raise click.UsageError("--n-ctx and --fallback need --serve; a running server has its own")
    if not only_print:
        _expect_installed(wanted)
    settings = load_config(flags, config_flag, api_key_file).settings
    key = settings.api_keys[0] if settings.api_keys else ""
    if only_print:
        endpoint = find_endpoint(url or url_of(settings), key, model)
        print_result(as_shell(wanted, endpoint, arguments))
        return 0
    files = {"config": config_flag, "api_key_file": api_key_file}
    with _address(url, settings, served, files | flags) as address:
        endpoint = find_endpoint(address, key, model)
        _warn_if_small(wanted, endpoint)
        return _run(wanted, wanted.setup(endpoint), arguments)


def as_table() -> str:
    """A line for each client."""
    return "\n".join(
        f"{client.name:<9} {client.title:<19} "
        + ("installed" if shutil.which(client.name) else f"not installed: {client.install}")
        for client in CLIENTS.values()
    )


def as_shell(client: Client, endpoint: Endpoint, arguments: Sequence[str]) -> str:
    """Lines for a shell that do the same; a placeholder stands for the key."""
    if endpoint.key:
        endpoint = msgspec.structs.replace(endpoint, key=_PLACEHOLDER)
    setup = client.setup(endpoint)
    lines = [f"export {name}={shlex.quote(text)}" for name, text in setup.environment.items()]
    return "\n".join([*lines, shlex.join([client.name, *setup.arguments, *arguments])])


def _known(name: str) -> Client:
    if name in CLIENTS:
        return CLIENTS[name]
    near = difflib.get_close_matches(name, CLIENTS, n=1)
    guess = f"did you mean {near[0]}? Else " if near else ""
    raise click.UsageError(
        f"there is no client {name!r}: {guess}known are {', '.join(CLIENTS)}. All others take the "
        "server's address as their base URL"
    )


def _expect_installed(client: Client) -> None:
    if shutil.which(client.name) is None:
        raise SpilloverError(
            f"{client.title} is not installed: there is no program {client.name} ({client.install})"
        )


@contextmanager
def _address(
    url: str, settings: Settings, served: str | None, options: dict[str, Any]
) -> Generator[str]:
    """Where the server listens: our own, with *options*, where *served* names its model."""
    if served is None:
        yield url or url_of(settings)
        return
    words = [served]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    with own_server(words, os.environ, f"starting a server of {served} …") as (_, address):
        yield address


def _warn_if_small(client: Client, endpoint: Endpoint) -> None:
    if endpoint.n_ctx is not None and endpoint.n_ctx < client.n_ctx:
        print_note(
            f"spillover: {endpoint.model} has {endpoint.n_ctx} tokens of context here, and "
            f"{client.title} works well from {client.n_ctx}: raise --n-ctx of the server, if the "
            "model can hold so much"
        )


def _run(client: Client, setup: Setup, arguments: Sequence[str]) -> int:
    """Run the client in our terminal; its exit code. A signal to us ends it, too."""
    path = shutil.which(client.name)
    process = subprocess.Popen(
        [path or client.name, *setup.arguments, *arguments],
        env={**os.environ, **setup.environment},
    )
    try:
        with _ignored(signal.SIGINT, signal.SIGQUIT):  # the terminal sends them to the client, too
            code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _ignored(*numbers: signal.Signals) -> Generator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
