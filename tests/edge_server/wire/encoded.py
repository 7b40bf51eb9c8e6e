"""What an encoder makes of events, with texts that would break the frames of a careless one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from spillover.edge_server.wire.dialect import Encoder
from spillover.runtime.events import Delta, Finished, FinishReason, ReasoningDelta, Timings, Usage

NASTY = st.sampled_from(
    ["\r", "\n", "\r\n", "\n\n", "\0", "\u2028", "\u2029", "\x85", "\ufeff", "data: x\n\n",
     '"\\u0000"', "\x1b[2J", "\\", '"', "</script>", "é", "🤗", "[DONE]", ":"]
)  # fmt: skip
TEXTS = st.lists(NASTY | st.text(max_size=6), max_size=6).map("".join)
SAID = st.lists(st.tuples(st.sampled_from([Delta, ReasoningDelta]), TEXTS), max_size=6)
"""Texts of an answer and of its reasoning."""


def encoded(encoder: Encoder, events: Iterable[Any]) -> bytes:
    """The whole body."""
    return encoder.open() + b"".join(map(encoder.feed, events)) + encoder.end()


def finished(reason: FinishReason = "stop", n: int = 5, stop: str | None = None) -> Finished:
    """The end of an answer of *n* tokens."""
    return Finished(
        reason=reason,
        usage=Usage(prompt_tokens=12, cached_tokens=10, completion_tokens=n, reasoning_tokens=2),
        timings=Timings(queue_ms=1, prefill_ms=2, decode_ms=3.5),
        stop=stop,
    )
