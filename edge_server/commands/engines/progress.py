"""Shows on a terminal how far a conversion is."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from spillover.quantize.child import Progress


@contextmanager
def shown_progress(is_quiet: bool) -> Generator[Progress]:
    """Progress bars on standard error, one for each kind of work, if that is a terminal."""
    if is_quiet or not sys.stderr.isatty():
        yield lambda what, n_done, n_all: None
        return
    with ExitStack() as stack:
        bars: dict[str, ProgressBar[int]] = {}

        def show(what: str, n_done: int, n_all: int) -> None:
            if what not in bars:
                stack.close()  # the last kind of work has ended
                made: ProgressBar[int] = click.progressbar(
                    length=n_all, label=what, file=sys.stderr
                )
                bars[what] = stack.enter_context(made)
            bars[what].update(n_done - bars[what].pos)

        yield show
