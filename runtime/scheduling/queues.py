"""The sequences of a scheduler by phase, and the slots they hold."""

from __future__ import annotations

from collections import deque

from spillover.runtime.engine import SlotState
from spillover.runtime.scheduling.sequence import Phase, Sequence


class Queues:
    """Moves sequences from phase to phase: waiting → prefilling → decoding. Those of the background
    wait behind all others, and hold no slot while there are others.

    Belongs to the loop; only slot_states() and n_running may be read from other threads.
    """

    def __init__(self, n_slots: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.filling: deque[Sequence] = deque()
        """They hold a slot, and get what they begin with from the KV cache before they prefill."""
        self.prefilling: deque[Sequence] = deque()
        self.decoding: list[Sequence] = []
        self.may_admit = False
        """Whether anything has changed since the last waiting sequence could not be admitted."""
        self._slots: list[Sequence | None] = [None] * n_slots

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.filling or self.prefilling or self.decoding)

    @property
    def next(self) -> Sequence | None:
        """The waiting sequence whose turn it is: the first, if there is a slot for it."""
        if not self.waiting or None not in self._slots:
            return None
        first = self.waiting[0]
        must_wait = first.is_background and not all(s.is_background for s in self.running)
        return None if must_wait else first

    @property
    def running(self) -> list[Sequence]:
        """The sequences that hold a slot."""
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def running_background(self) -> list[Sequence]:
        return [sequence for sequence in self.running if sequence.is_background]

    @property
    def has_only_background(self) -> bool:
        return all(sequence.is_background for sequence in (*self.waiting, *self.running))

    @property
    def n_running(self) -> int:
        return sum(sequence is not None for sequence in self._slots)

    @property
    def n_unread(self) -> int:
        """Prompt tokens that remain to be read."""
        return sum(sequence.n_unread for sequence in self.prefilling)

    def of_job(self, job_id: int) -> list[Sequence]:
        everybody = (*self.waiting, *self.filling, *self.prefilling, *self.decoding)
        return [sequence for sequence in everybody if sequence.job_id == job_id]

    def enqueue(self, sequence: Sequence) -> None:
        """Put it behind those that wait, but before the background."""
        n_before = len(self.waiting) if sequence.is_background else self._n_before_background
        self.waiting.insert(n_before, sequence)
        self.may_admit = True

    @property
    def _n_before_background(self) -> int:
        """How many wait that are not of the background."""
        return sum(not sequence.is_background for sequence in self.waiting)

    def start_prefill(self, seq: int, n_past: int, *, is_filled: bool = False) -> Sequence:
        """Give the first waiting sequence a slot and the id *seq*, which holds *n_past* tokens; it
        *is_filled* with more of them first."""
        sequence = self.waiting.popleft()
        sequence.placed(seq, n_past, slot=self._slots.index(None))
        self._slots[sequence.slot] = sequence
        (self.filling if is_filled else self.prefilling).append(sequence)
        return sequence

    def end_filling(self, sequence: Sequence) -> None:
        """Note that the rest of its prompt must be read."""
        self.filling.remove(sequence)
        self.prefilling.append(sequence)

    def start_decode(self, sequence: Sequence) -> None:
        """Note that the prompt of *sequence* has been read."""
        self.prefilling.remove(sequence)
        self.decoding.append(sequence)
        sequence.phase = Phase.DECODE
        self.may_admit = True  # other choices may be waiting for this prompt

    def leave(self, sequence: Sequence) -> None:
        """Remove *sequence* from its queue and its slot."""
        if sequence.phase is Phase.WAITING:
            self.waiting.remove(sequence)
        else:
            if sequence.phase is Phase.DECODE:
                self.decoding.remove(sequence)
            else:
                (self.filling if sequence in self.filling else self.prefilling).remove(sequence)
            self._slots[sequence.slot] = None
        self.may_admit = True

    def requeue(self, sequence: Sequence) -> None:
        """Put a running sequence back at the front of the waiting ones of its priority."""
        self.leave(sequence)
        sequence.preempted()
        self.waiting.insert(self._n_before_background * sequence.is_background, sequence)

    def slot_states(self) -> tuple[SlotState, ...]:
        """A snapshot for /slots."""
        return tuple(map(_slot_state, range(len(self._slots)), self._slots))


def _slot_state(i: int, sequence: Sequence | None) -> SlotState:
    if sequence is None:
        return SlotState(id=i, state="idle", n_tokens=0)
    is_decoding = sequence.phase is Phase.DECODE
    return SlotState(id=i, state="decode" if is_decoding else "prefill", n_tokens=sequence.n_past)
