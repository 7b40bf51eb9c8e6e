"""Wherever an answer is cut and however the new text comes in, the joined text is the answer."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.seam.machine import SeamMachine
from spillover.runtime.events import Replace
from spillover.runtime.request import GenerationRequest, Message

ASKED = GenerationRequest(messages=(Message(role="user", content="Tell me about the fox."),))
ANSWER = (
    "The quick brown fox jumps over the lazy dog. It was a sunny day, and nobody knew what would "
    "happen next. Then the rain came down on the valley."
)


def joined(plan: Continuation, cloud: str, n: int) -> str:
    """The answer after *cloud* came in pieces of *n* characters."""
    seam = SeamMachine(plan)
    text = plan.kept
    pieces = [piece for i in range(0, len(cloud), n) for piece in seam.feed(cloud[i : i + n], 0.0)]
    for piece in [*pieces, *seam.end()]:
        text = text[: piece.keep_chars] if isinstance(piece, Replace) else text + piece
    return text


@pytest.mark.parametrize("opening", ["", "Sure! Here is the rest:\n\n"])
@pytest.mark.parametrize("n", [1, 7, 1000])
def test_any_cut_is_joined_by_the_anchor(n: int, opening: str) -> None:
    for cut in range(len(ANSWER)):
        plan = plan_continuation(ASKED, ANSWER[:cut])
        echo = opening + plan.anchor + plan.pending + ANSWER[cut:]
        cloud = ANSWER if plan.join in ("fresh", "restart") else echo
        assert joined(plan, cloud, n) == ANSWER


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_any_cut_is_joined_to_a_restart(n: int) -> None:
    for cut in range(len(ANSWER)):
        assert joined(plan_continuation(ASKED, ANSWER[:cut]), ANSWER, n) == ANSWER
