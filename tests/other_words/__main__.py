"""Runs tests while the local models say something else, as they do on another processor:

    python -m tests.other_words SEED [pytest's arguments]

A test that fails here and passes otherwise depends on what a model happens to say. Each SEED, an
integer, makes other models of ours; see sitecustomize.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

USAGE = "usage: python -m tests.other_words SEED [pytest's arguments]"


def main(arguments: list[str]) -> None:
    if not arguments or not arguments[0].isdecimal():
        sys.exit(USAGE)
    seed, *rest = arguments
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.getenv("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OTHER_WORDS": seed}
    command = [sys.executable, "-m", "pytest", *rest]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
