"""Answers with and without drafts, which are right as often as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import N_CHECKED, Backend, Constraint, Logits, Rows, Tokens
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.events import Delta, EngineEvent, Finished, TokenLogprob
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling
from spillover.runtime.scheduling.drafts.drafter import Drafter
from spillover.runtime.scheduling.sequence import Job
from tests.answers import GREEDY
from tests.runtime.scheduling.watched_loop import Loop

JUNK = [7] * N_CHECKED


class Oracle(Drafter):
    """Knows how some answers go on, and is wrong with every fifth token."""

    def __init__(self, known: list[tuple[Tokens, list[int]]]) -> None:
        """*known*: prompts with their answers."""
        super().__init__()
        self._known = known

    rate = 0.9

    def follow(self, tokens: Tokens) -> None:
        prompt, answer = next(
            known for known in self._known if np.array_equal(tokens[: len(known[0])], known[0])
        )
        begun = len(tokens) - len(prompt)
        rest = enumerate([*answer[begun:], *JUNK][:N_CHECKED], begun)
        self.draft = [token + 1 if i % 5 == 4 else token for i, token in rest]


class OneByOne:
    """Reads the tokens of a check one at a time, each when its logits are asked for: then they are
    rounded as those of plain steps are, on every processor. For one sequence at a time."""

    def __init__(self, backend: Backend) -> None:
        self._decode = backend.decode
        self._logits = backend.logits
        self._left: list[Rows] = []
        self._n_read = 0
        backend.decode = self.decode  # type: ignore[method-assign]  # the real one, in parts
        backend.logits = self.logits  # type: ignore[method-assign]
        if isinstance(backend, LlamaBackend):
            self._row_of = backend._row_of
            backend._row_of = self.row_of  # type: ignore[method-assign]

    def decode(self, batch: Sequence[Rows]) -> None:
        self._left, self._n_read = [], 0
        if not any(rows.wants_all_logits for rows in batch):
            self._decode(batch)
            return
        (rows,) = batch
        tokens = range(len(rows.tokens))
        self._left = [Rows(rows.seq, rows.start + i, rows.tokens[i : i + 1], True) for i in tokens]
        self._read_up_to(0)

    def _read_up_to(self, output: int) -> int:
        """Where the output is now."""
        if not self._left:
            return output
        while self._n_read <= output:
            self._decode([self._left[self._n_read]])
            self._n_read += 1
        return 0

    def logits(self, output: int) -> Logits:
        return self._logits(self._read_up_to(output))

    def row_of(self, output: int) -> tuple[Any, int]:
        return self._row_of(self._read_up_to(output))


class Answer(Struct):
    """All that a client sees."""

    text: str = ""
    ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    end: Finished | None = None

    def take(self, event: EngineEvent) -> None:
        if isinstance(event, Delta):
            self.text += event.text
            self.ids += event.token_ids
            self.logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.end = event

    @property
    def finished(self) -> Finished:
        assert self.end is not None
        return self.end

    @property
    def seen(self) -> tuple[object, ...]:
        """Without the times."""
        end = self.finished
        return self.text, self.ids, self.logprobs, end.reason, end.stop, end.usage

    @property
    def n_accepted(self) -> int:
        return self.finished.timings.n_accepted


def asked(
    job_id: int,
    prompt: Tokens,
    sampling: Sampling = GREEDY,
    *,
    constraint: Constraint | None = None,
    **fields: Any,
) -> Job:
    fields = {"max_tokens": 40, "ignore_eos": True, **fields}
    request = GenerationRequest(prompt=tuple(prompt.tolist()), sampling=sampling, **fields)
    return Job(
        id=job_id,
        request=request,
        prompt=prompt,
        seed=11,
        pipelines=(TextPipeline(request.stop, split_reasoning=False),),
        constraints=() if constraint is None else (constraint,),
    )


def answers(loop: Loop, jobs: list[Job]) -> list[Answer]:
    """Of jobs that run at the same time."""
    found = {job.id: Answer() for job in jobs}
    for job in jobs:
        loop.scheduler.submit(job)
    while any(answer.end is None for answer in found.values()):
        job_id, event = loop.events.get(timeout=60)
        found[job_id].take(event)
    return list(found.values())


def new_loop(backend: Backend, *, n_ctx: int = 1024, speculates: bool) -> Loop:
    """With an empty KV cache."""
    for seq in range(backend.info.n_seq):
        backend.keep(seq, 0)
    return Loop(backend, n_parallel=4, n_ctx=n_ctx, speculates=speculates)


def answered(
    backend: Backend, jobs: list[Job], *, n_ctx: int = 1024, speculates: bool
) -> list[Answer]:
    """The same in a loop of their own."""
    loop = new_loop(backend, n_ctx=n_ctx, speculates=speculates)
    try:
        return answers(loop, jobs)
    finally:
        loop.stop()
