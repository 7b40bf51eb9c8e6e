"""What must be found and what must not, each line as a person or a program would write it.

PRIVATE: (kind, text with each private part between ⟦ and ⟧). HARMLESS: texts without any.
"""

from __future__ import annotations

from . import basics, configurations, elsewhere, harmless, held_out, languages, numbers

PRIVATE: list[tuple[str, str]] = [
    *basics.PRIVATE,
    *configurations.PRIVATE,
    *languages.PRIVATE,
    *numbers.PRIVATE,
    *elsewhere.PRIVATE,
    *held_out.PRIVATE,
]
HARMLESS: list[str] = [*basics.HARMLESS, *harmless.HARMLESS, *held_out.HARMLESS]


def unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where its private parts are."""
    text, places = "", []
    for index, part in enumerate(marked.replace("⟧", "⟦").split("⟦")):
        if index % 2:
            places.append((len(text), len(text) + len(part)))
        text += part
    return text, places
