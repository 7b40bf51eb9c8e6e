"""The text that ships with the package: stories, prose in sixteen languages, chats and code.

No model of this project was trained or calibrated with it.
"""

from __future__ import annotations

from importlib.resources import files

NAMES = ("stories", "english", "chat", "code", "languages")


def shipped_text() -> str:
    """All parts, the ones that small models know best first."""
    folder = files("spillover.quantize.evaluation") / "texts"
    return "\n\n".join((folder / f"{name}.txt").read_text("utf-8").strip() for name in NAMES)
