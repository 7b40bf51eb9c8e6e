"""What an owner reads about a setting. It is attached to the field that holds the value."""

from __future__ import annotations

from msgspec import Struct


class Help(Struct, frozen=True):
    """Makes a field a setting: `port: Annotated[int, Meta(ge=0), Help("Port to listen on.")]`.

    The setting has the name that msgspec encodes the field with: its own, or `field(name=...)`.
    """

    text: str
    """One sentence, for `--help` and the documentation."""
    flag: str = ""
    """Of `spillover serve`; empty: none."""
    other_flag: str = ""
    """Another name of the flag."""
    variable: str = ""
    """In the environment; empty: SPILLOVER_ and the setting's name in capitals."""
    default: str = ""
    """The default in words, where the value itself says too little."""
    is_secret: bool = False
    """Never shown."""


class Table(Struct, frozen=True):
    """Makes a field a table of the configuration file. Flags and variables cannot set it."""


class NoSetting(Struct, frozen=True):
    """Marks a field that the owner does not set: a request does, or it follows from others."""
