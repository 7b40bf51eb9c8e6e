"""A process that converts a GGUF file and compares the engines, beside the one that serves.

Its order comes over stdin, which then stays open: when it ends, the parent has ended or wants no
result any more, and so the process ends in order. Its results go to stdout, a line of JSON each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import BinaryIO

import psutil

from spillover.edge_server.commands.engines.order import Order, Result, decode_order, encode
from spillover.edge_server.commands.engines.progress import shown_progress
from spillover.quantize.child import take_streams
from spillover.quantize.conversion.compare import prepare
from spillover.runtime.backend import DecodeFailed
from spillover.runtime.errors import SpilloverError, shortage
from spillover.runtime.worker.exits import be_first_to_go

LOWEST = 19
"""The niceness of work that nobody waits for."""


def main() -> None:
    """Do what the first line of stdin says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, _unwind)
    commands, results = take_streams()
    line = commands.readline()
    if not line.endswith(b"\n"):
        return
    order = decode_order(line)
    be_first_to_go()
    threading.Thread(target=_end_with_parent, args=(commands,), daemon=True).start()
    if order.in_background:
        yield_to_others()
    results.write(encode(_done(order)))
    results.flush()
    os._exit(0)  # the libraries' own ends are slow, and nothing is left to write


def _done(order: Order) -> Result:
    try:
        with shown_progress(order.in_background) as progress:
            is_awaited = not order.in_background
            prepare(order.path, order.options, progress, measures=not is_awaited, waits=is_awaited)
    except SpilloverError as error:
        return Result(error=str(error))
    except OSError as error:  # such as a full disk
        return Result(error=shortage(error) or str(error))
    except MemoryError as error:
        return Result(error=str(shortage(error)))
    except DecodeFailed as error:
        return Result(error=f"one of the engines cannot compute: {error}")
    return Result()


def yield_to_others() -> None:
    """Take only what other programs leave of the processor and the disk."""
    process = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        if sys.platform == "win32":
            process.nice(psutil.IDLE_PRIORITY_CLASS)
        else:
            process.nice(LOWEST)
    if hasattr(process, "ionice"):
        with contextlib.suppress(OSError, psutil.Error):
            if sys.platform == "win32":
                process.ionice(psutil.IOPRIO_VERYLOW)
            else:
                process.ionice(psutil.IOPRIO_CLASS_IDLE)


def _end_with_parent(commands: BinaryIO) -> None:
    commands.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _unwind(number: int, _frame: FrameType | None) -> None:
    """End like after an exception, so that nothing half written is left; at once the second
    time."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)
