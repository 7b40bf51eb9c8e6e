"""spillover pull: fetch a model, check it, and give it a name."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.commands.models.device import fit_of_file, in_words
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_json, print_note, print_result
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import available_memory, total_memory

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from spillover.models.pull.fetched import Progress

_EPILOG = """\b
Examples:
  spillover pull smollm2-135m                      a name of `spillover models`
  spillover pull qwen3-0.6b:Q4_K_M                 another quantization
  spillover pull hf:bartowski/SmolLM2-360M-Instruct-GGUF
  spillover pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0
  spillover pull https://example.org/model.gguf

Without a quantization, the one that suits this device is taken. A pull that was stopped goes on
where it was when it is repeated. HF_TOKEN, HF_ENDPOINT and HF_HOME mean what they mean to
Hugging Face's own client; other models go to models_dir (see `spillover config`).
"""


@click.command("pull", epilog=_EPILOG)
@click.argument("model")
@click.option("--name", default="", help="What to call it.  [default: after the catalogue or file]")
@click.option("--offline", is_flag=True, help="Use no network; say what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Describe the model as JSON.")
@setting_options(())
def command(model: str, name: str, offline: bool, as_json: bool, config_flag: Path | None) -> None:
    """Fetch MODEL, so that it can be used by its name."""
    from spillover.models.pull.order import PullOptions  # slow
    from spillover.models.pull.pull import pull

    store = model_store(load_config({}, config_flag).settings)
    options = PullOptions(
        total_bytes=total_memory(),
        free_bytes=available_memory(),
        offline=offline or is_offline(),
        name=checked_name(name),
    )
    try:
        with _progress_bar(model) as progress:
            pulled = pull(
                model,
                store,
                options,
                progress,
                lambda text: print_note(f"note: {text}"),
            )
    except CatalogueError as error:
        raise ModelError(str(error)) from error
    except KeyboardInterrupt:
        print_note("\nstopped: the same command goes on")
        raise
    if as_json:
        print_json(pulled)
        return
    fit = in_words(fit_of_file(pulled.entry.path))
    print_result(f"{pulled.name}: {pulled.size_bytes / 1e6:.1f} MB{fit and ', ' + fit}")
    print_note(f"try it: {_first_use(pulled.entry)}")


def _first_use(entry: ModelEntry) -> str:
    """A command that uses the model. One that makes vectors writes no answers."""
    from spillover.models.catalogue import listed_as

    listed = listed_as(entry)
    is_embedding = listed is not None and listed[1].kind == "embedding"
    return f"spillover {'serve' if is_embedding else 'chat'} {entry.name}"


def is_offline() -> bool:
    """Whether the user's environment forbids the network to Hugging Face's client."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def checked_name(name: str) -> str:
    """*name*, if a model may be called so. Raises UsageError."""
    from spillover.models.store import is_name

    if name and not is_name(name):
        raise click.UsageError(
            f"a model cannot be called {name[:100]!r}: use at most 100 letters, digits, '.', '-' "
            "and '_', and begin with a letter or a digit"
        )
    return name


@contextmanager
def _progress_bar(label: str) -> Generator[Progress]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda n_done, n_all: None
        return
    bar: ProgressBar[int]
    with click.progressbar(length=1, label=label[-30:], file=sys.stderr) as bar:

        def show(n_done: int, n_all: int) -> None:
            bar.length = max(n_all, n_done, 1)
            bar.update(n_done - bar.pos)

        yield show
