"""A server in a process of its own, for as long as a command needs one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from spillover.edge_server.commands.loading import note_if_slow
from spillover.runtime.errors import SpilloverError

_PATIENCE_S = 10.0
"""For its end; then it is killed."""


@contextmanager
def own_server(
    arguments: Sequence[str], environ: Mapping[str, str], note: str
) -> Generator[tuple[subprocess.Popen[str], str]]:
    """`spillover serve` with *arguments* on a free port of this device, and its address. *note* is
    shown if it takes long to start. What it logs once it listens is dropped. It also ends with us.

    Raises SpilloverError with its last words if it ends instead of listening.
    """
    place = ("--host", "127.0.0.1", "--port", "0", "--end-with-parent")
    process = subprocess.Popen(
        [sys.executable, "-m", "spillover.edge_server.cli", "serve", *place, *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # a library may write anything
        start_new_session=True,  # the terminal's Ctrl-C is for the client
    )
    said = process.stderr
    assert said is not None
    reader = threading.Thread(target=_drop, args=(said,), name="server-log", daemon=True)
    try:
        with note_if_slow(note):
            url = _address(said)
        reader.start()
        yield process, url
    finally:
        _end(process)
        if reader.ident is not None:
            reader.join(_PATIENCE_S)
        said.close()


def _address(said: IO[str]) -> str:
    """What the server announces."""
    line = ""
    for line in said:
        if line.startswith("address"):
            return line.split()[1].rstrip("/")
    raise SpilloverError(f"the server did not start: {line.strip().removeprefix('spillover: ')}")


def _drop(said: IO[str]) -> None:
    """Read to the end: a full pipe would stop the server."""
    for _line in said:
        pass


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_S)
    process.kill()
    process.wait()
