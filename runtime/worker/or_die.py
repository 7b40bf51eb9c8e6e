"""When one of a worker's threads cannot go on, neither can the process: the parent starts a new one
and resumes what was running."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

EXIT_FAILED = 70


def or_die(work: Callable[[], None]) -> None:
    """Do *work*; an exception of it ends the process."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)
