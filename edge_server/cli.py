"""The command `spillover`: one verb per subcommand, each loaded when it is used.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 stopped with Ctrl-C, 128 and more: with a signal.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from spillover.edge_server.commands.output import print_note, print_result
from spillover.edge_server.errors import ConfigError
from spillover.runtime.errors import InvalidRequest, SpilloverError, shortage

COMMANDS = {
    "serve": ("serve", "Serve a model on a local OpenAI-compatible endpoint."),
    "run": ("run", "Answer one prompt; works in pipes."),
    "chat": ("chat.chat", "Chat with a model in the terminal."),
    "models": ("models.listing", "List models: here, and to be fetched, with their fit."),
    "pull": ("models.pull", "Fetch a model by its name or address."),
    "show": ("models.show", "Describe a model."),
    "rm": ("models.rm", "Remove a model that was fetched."),
    "launch": ("launch.launch", "Start Claude Code, Codex and others, set up to ask here."),
    "engines": ("engines.engines", "Find out which engine runs a GGUF file faster here."),
    "export": ("export", "Convert a model to another format."),
    "quantize": ("quantize.group", "Make a model smaller, and say what that costs."),
    "calibrate": ("calibrate", "Learn when a model's answers are likely to be wrong."),
    "replay": ("replay", "Show what the policies would do with recorded answers."),
    "demo": ("demo", "Show an answer that changes its writer, offline."),
    "connect": ("connect.connect", "Configure a provider that may take over, and try it."),
    "keys": ("keys", "Keep the keys of cloud providers in the keyring."),
    "budget": ("budget", "Show what the cloud has cost, and the limits."),
    "consents": ("consents", "Show which providers may always, or may never, take over."),
    "prefixes": ("prefixes", "Show or remove what is kept on disk of what models have read."),
    "doctor": ("doctor.doctor", "Check this device, and say how to fix what is wrong."),
    "config": ("config_show", "Show the settings in force and where each comes from."),
}
_EPILOG = """\b
Examples:
  spillover chat                     chat with the model pulled last, or the bundled one
  spillover run "Tell me a story."   one answer on standard output
  spillover serve ~/models/m.gguf    an endpoint for your programs
"""


class _LazyGroup(click.Group):
    """Imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"spillover.edge_server.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:  # click knows no command before it is imported
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]}?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow

        print_result(f"spillover {version('spillover')}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Stream tokens from quantized models on this device."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    unwind_at_signals()
    sys.exit(run(arguments))


def unwind_at_signals() -> None:
    """End the process at SIGTERM and SIGHUP like an exception, so that the terminal shows again
    what is typed; at once if the signal comes again."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, end)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error becomes one line on stderr and an exit code."""
    _open_closed_streams()
    try:
        code = cli.main(arguments, prog_name="spillover", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except (ConfigError, InvalidRequest) as error:
        print_note(f"spillover: {error}")
        return 2
    except SpilloverError as error:
        print_note(f"spillover: {error}")
        return 1
    except UnicodeEncodeError as error:  # such as a file's name, which JSON cannot hold
        print_note(f"spillover: {error.object[:200]!r} is not UTF-8 text: rename it")
        return 2
    except OSError as error:  # such as a full disk
        _silence_stdout()
        print_note(f"spillover: {shortage(error) or error}")
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:
        is_homeless = "home directory" in str(error)  # of a user whom the system does not know
        advice = str(error) if is_homeless else shortage(error)
        if advice is None:
            raise
        print_note(f"spillover: {advice}")
        return 1


def _open_closed_streams() -> None:
    """Point standard streams that were closed at the start to nowhere: the next file to be opened
    would take their place."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # open until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _silence_stdout() -> None:
    """Keep the interpreter's last flush from failing after the reader of our output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
