"""What the new writer's text goes through on its way to the client, once it is joined."""

from __future__ import annotations

from typing import Protocol


class Stage(Protocol):
    """Text in, text out; holds back only what it is not yet sure of."""

    @property
    def is_done(self) -> bool:
        """Whether all that comes now passes unchanged."""
        ...

    def feed(self, text: str) -> str: ...
    def flush(self) -> str:
        """What was held back, at the end of the text."""
        ...
