"""What passes between a command and the process that converts and compares for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from spillover.runtime.options import EngineOptions


class Order(Struct, frozen=True, kw_only=True):
    """What is to be done."""

    path: Path
    options: EngineOptions
    in_background: bool
    """Nobody waits: at the lowest priority, without a progress bar, and with a measurement."""


class Result(Struct, frozen=True, kw_only=True):
    """The end of the work."""

    error: str = ""
    """Why there is no comparison; empty: there is one now."""


def encode(message: Order | Result) -> bytes:
    """One line."""
    return msgspec.json.encode(message, enc_hook=str) + b"\n"


def decode_order(line: bytes) -> Order:
    return msgspec.json.decode(line, type=Order, dec_hook=lambda kind, value: kind(value))


def decode_result(line: bytes) -> Result:
    return msgspec.json.decode(line, type=Result)
