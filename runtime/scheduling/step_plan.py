"""Decides what the next call to the backend carries: pure functions of the queues and the pace."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Rows
from spillover.runtime.scheduling.pace.pace import Pace
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.sequence import Sequence

ADMISSION_RESERVE = 64
"""KV cells that must be free, besides those of its prompt, for a sequence to begin."""

Slice: TypeAlias = tuple[Sequence, int]
"""A sequence, and how many of the next tokens of its prompt to read."""


class SliceRead(Struct, frozen=True):
    """A slice in a batch."""

    sequence: Sequence
    n: int
    output: int | None
    """Which output of the batch has the logits after it; None unless the prompt ends with it."""


class StepPlan(Struct, frozen=True):
    """One call: a token for each of *decoding*, and *slices* of prompts."""

    decoding: list[Sequence]
    slices: list[Slice] = []
    drafts: dict[Sequence, list[int]] = {}
    """Tokens that may follow in some of *decoding*, to be checked in the same call."""
    gap_s: float | None = None
    """Seconds after this call that more slices may take before the next decode step; None where
    no slices follow."""

    @property
    def n_slice(self) -> int:
        """Prompt tokens."""
        return sum(n for _, n in self.slices) if self.slices else 0

    @property
    def n_drafted(self) -> int:
        """Tokens of all drafts."""
        return sum(map(len, self.drafts.values())) if self.drafts else 0

    @property
    def depth(self) -> int:
        """Tokens that precede those of the slices, on average."""
        return sum(n * s.n_past for s, n in self.slices) // max(self.n_slice, 1)

    @property
    def alone(self) -> Sequence | None:
        """The only sequence of a call that carries one slice of its prompt and nothing else."""
        return self.slices[0][0] if len(self.slices) == 1 and not self.decoding else None

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences that take part, in the order of the rows."""
        return [*self.decoding, *(sequence for sequence, _ in self.slices)]

    def rows(self) -> list[Rows]:
        """The batch for the backend: the decoding sequences first."""
        batch = [self._decode_rows(sequence) for sequence in self.decoding]
        return [*batch, *rows_of(self.slices)]

    def _decode_rows(self, sequence: Sequence) -> Rows:
        last, draft = sequence.tokens[sequence.n_past :], self.drafts.get(sequence)
        if not draft:
            return Rows(sequence.seq, sequence.n_past, last, True)
        tokens = np.append(last, np.array(draft, dtype=np.int32))
        return Rows(sequence.seq, sequence.n_past, tokens, True, wants_all_logits=True)


def rows_of(slices: Iterable[Slice]) -> list[Rows]:
    """The batch of *slices*; the last token of a whole prompt has logits."""
    return [
        Rows(s.seq, s.n_past, s.tokens[s.n_past : s.n_past + n], n == s.n_unread) for s, n in slices
    ]


def with_outputs(slices: Iterable[Slice], first: int) -> list[SliceRead]:
    """*slices* with their outputs, the next of which is number *first*."""
    outputs = count(first)
    return [SliceRead(s, n, next(outputs) if n == s.n_unread else None) for s, n in slices]


def plan_step(queues: Queues, pace: Pace, waited_s: float) -> StepPlan:
    """Plan the call of the next step. When some sequences decode and others have prompts to read,
    slices share the call or follow it, whichever is faster. *waited_s*: how long those that decode
    have waited since their last step. A call that slices share may take a whole gap, so it does not
    follow a wait that is longer than a step; a step of their own comes first."""
    decoding, prompts = queues.decoding.copy(), queues.prefilling
    if not prompts:
        return StepPlan(decoding)
    n_unread, depth = queues.n_unread, prompts[0].n_past
    if not decoding:
        n = pace.alone(_n_together(prompts[0], pace), n_unread, depth)
        return StepPlan([], slices_of(n, prompts))
    gap_s = pace.room_s(n_unread, depth, len(decoding))
    plan = pace.between(n_unread, depth, len(decoding), gap_s)
    if not plan.mixed:
        return StepPlan(decoding, gap_s=gap_s)
    if waited_s > (pace.decode_s(len(decoding)) or 0.0):
        return StepPlan(decoding)
    return StepPlan(decoding, slices_of(plan.n_tokens, prompts))


def _n_together(sequence: Sequence, pace: Pace) -> int:
    """How many of its next tokens one call may read. Where slices are fixed, tokens that were
    generated before their worker died are read one by one, as they were then."""
    n_unread = sequence.n_unread
    return max(n_unread - sequence.n_generated, 1) if pace.has_fixed_slices else n_unread


def plan_gap(
    queues: Queues, pace: Pace, n_decoding: int, left_s: float, first_token_s: float | None
) -> StepPlan | None:
    """The next slices between two decode steps of *n_decoding* rows, with *left_s* of the gap left;
    None when the decode step should follow now. *first_token_s*: seconds per token of the gap's
    first slices."""
    prompts = queues.prefilling
    if not prompts:
        return None
    depth = prompts[0].n_past
    n = pace.between(queues.n_unread, depth, n_decoding, left_s, may_share=False).n_tokens
    if first_token_s and not pace.is_worth_it(n, depth, left_s, first_token_s):
        return None
    return StepPlan([], slices_of(n, prompts))


def plan_beside(queues: Queues, pace: Pace) -> list[Slice]:
    """The slices that the backend's reader should read next while other sequences decode; none
    where the step itself reads sooner what is left, because it fits between two tokens."""
    prompts = queues.prefilling
    if not (prompts and queues.decoding):
        return []
    n_unread, depth = queues.n_unread, prompts[0].n_past
    if pace.fits_between(n_unread, depth, len(queues.decoding)):
        return []
    return shared_slices(pace.part(n_unread, depth), prompts)


def shared_slices(n: int, prompts: Iterable[Sequence]) -> list[Slice]:
    """*n* tokens of the waiting prompts. The first one gets half of them at least, and the others
    may have the rest, so that a short prompt does not wait for all of a long one."""
    first, *others = prompts
    n_others = min(sum(sequence.n_unread for sequence in others), n // 2)
    n_first = min(first.n_unread, n - n_others)
    slices = [(first, n_first)]
    return slices + slices_of(n - n_first, others) if n > n_first and others else slices


def slices_of(n: int, prompts: Iterable[Sequence]) -> list[Slice]:
    """*n* tokens of the waiting prompts, starting with the first prompt."""
    slices = []
    for sequence in prompts:
        taken = min(n, sequence.n_unread)
        slices.append((sequence, taken))
        n -= taken
        if n == 0:
            break
    return slices


def next_step_s(queues: Queues, pace: Pace) -> float | None:
    """Seconds until the next step's text; None unless only decoding is ahead."""
    if queues.filling or queues.prefilling or queues.may_admit:
        return None
    return pace.decode_s(len(queues.decoding))


def admission_reserve(queues: Queues, sequence: Sequence, n_ctx: int) -> int:
    """KV cells besides those of its prompt that must be free before *sequence* begins: each of the
    others writes a cell per step and has the rest of its prompt to read, and a sequence should not
    begin only to be preempted at once, again and again."""
    if not queues.n_running:
        return 1
    n_unread = sum(other.n_unread for other in (*queues.filling, *queues.prefilling))
    return min(sequence.n_left(n_ctx), ADMISSION_RESERVE) + len(queues.decoding) + n_unread


def victim(queues: Queues) -> Sequence:
    """The running sequence to preempt: the newest, so that the oldest ones finish."""
    return max(queues.running, key=lambda s: s.age)
