"""Writes storyteller_prompts.jsonl: labelled prompts for the bundled model, in its field and out
of it.

    python -m tests.edge_server.calibration.make_prompts

The check says what a right answer is, as a user would see it: a refusal of a question is no right
answer, however honest it is, and a story that leaves out what it was asked to be about is none
either. A family (`group`) is one way of asking for one kind of thing.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import msgspec

from tests.edge_server.calibration.prompt_lines import Line
from tests.edge_server.calibration.prompts_in_field import IN_FIELD
from tests.edge_server.calibration.prompts_out_of_field import OUT_OF_FIELD

PATH = Path(__file__).parent / "storyteller_prompts.jsonl"
PER_FAMILY = 14


def lines() -> Generator[Line]:
    """Every line, always the same."""
    for field, families in (("in", IN_FIELD), ("out", OUT_OF_FIELD)):
        for family in families:
            rng = random.Random(family.__name__)
            seen: set[str] = set()
            fresh = (line for line in family(rng) if _is_new(line, seen))
            for number, line in enumerate(islice(fresh, PER_FAMILY), 1):
                name = f"{field}/{family.__name__}"
                yield {"id": f"{name}/{number}", "group": name} | line


def _is_new(line: Line, seen: set[str]) -> bool:
    key = str(line.get("prompt") or line.get("messages"))
    is_new = key not in seen
    seen.add(key)
    return is_new


def main() -> None:
    PATH.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines()))


if __name__ == "__main__":
    main()
