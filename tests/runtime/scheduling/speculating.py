"""Sequences whose drafts are right as often as a test wants, and what checking them costs."""

from __future__ import annotations

import numpy as np

from spillover.runtime.backend import N_CHECKED, Tokens
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.request import GenerationRequest
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.sequence import Job, Sequence
from spillover.runtime.scheduling.speculation import Speculation

N_CTX = 1000
MAX_GAP_S = 20.0
CHEAP = {0: 1.0, 1: 1.0, 3: 1.1, 7: 1.3, 15: 3.0}
"""Seconds of calls that check so many proposed tokens."""


def text(values: list[int]) -> Tokens:
    return np.array(values, dtype=np.int32)


class Fixed(Drafter):
    """The same draft at the same rate, whatever comes."""

    rate = 0.9

    def follow(self, tokens: Tokens) -> None:
        self.draft = [9] * N_CHECKED


def sequences(n: int, *, max_tokens: int | None = None) -> list[Sequence]:
    request = GenerationRequest(prompt=(1, 2, 3), max_tokens=max_tokens)
    jobs = [
        Job(
            id=i, request=request, prompt=text([1, 2, 3]), seed=0,
            pipelines=(TextPipeline((), split_reasoning=False),),
        )
        for i in range(n)
    ]  # fmt: skip
    return [Sequence(job, 0, None, now=0.0) for job in jobs]


def chooser(
    costs: dict[int, float], n: int = 1, *, served: int | None = None, room: int = 10_000
) -> Speculation:
    """One that knows what calls cost, by proposed tokens, for all streams or so many of them."""
    found = Speculation(N_CTX, lambda n_cells: n_cells <= room, MAX_GAP_S)
    for n_drafted, seconds in costs.items():
        for _ in range(2):
            found.observe(n, n if served is None else served, n_drafted, seconds)
    return found


def sizes(found: Speculation, decoding: list[Sequence]) -> list[int]:
    return [len(draft) for draft in found.drafts(decoding).values()]
