"""The sequences of a scheduler by phase, and the slots they hold."""

from __future__ import annotations

from collections import deque

from spillover.runtime.engine import SlotState
from spillover.runtime.scheduling.sequence import Phase, Sequence


class Queues:
    """Moves sequences from phase to phase: waiting → prefilling → decoding.

    Belongs to the loop; only slot_states() and n_running may be read from other threads.
    """

    def __init__(self, n_slots: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Sequence] = deque()
        self.decoding: list[Sequence] = []
        self.may_admit = False
        """Whether anything has changed since the last waiting sequence could not be admitted."""
        self._slots: list[Sequence | None] = [None] * n_slots

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.prefilling or self.decoding)

    @property
    def has_free_slot(self) -> bool:
        return None in self._slots

    @property
    def running(self) -> list[Sequence]:
        """The sequences that hold a slot."""
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def n_running(self) -> int:
        return sum(sequence is not None for sequence in self._slots)

    @property
    def n_unread(self) -> int:
        """Prompt tokens that remain to be read."""
        return sum(sequence.n_unread for sequence in self.prefilling)

    def of_job(self, job_id: int) -> list[Sequence]:
        everybody = (*self.waiting, *self.prefilling, *self.decoding)
        return [sequence for sequence in everybody if sequence.job_id == job_id]

    def enqueue(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        self.may_admit = True

    def start_prefill(self, seq: int, n_past: int) -> Sequence:
        """Give the first waiting sequence a slot and the id *seq*, which holds *n_past* tokens."""
        sequence = self.waiting.popleft()
        sequence.placed(seq, n_past, slot=self._slots.index(None))
        self._slots[sequence.slot] = sequence
        self.prefilling.append(sequence)
        return sequence

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
                self.prefilling.remove(sequence)
            self._slots[sequence.slot] = None
        self.may_admit = True

    def requeue(self, sequence: Sequence) -> None:
        """Put a running sequence back at the front of the waiting ones."""
        self.leave(sequence)
        sequence.preempted()
        self.waiting.appendleft(sequence)

    def slot_states(self) -> tuple[SlotState, ...]:
        """A snapshot for /slots."""
        return tuple(map(_slot_state, range(len(self._slots)), self._slots))


def _slot_state(i: int, sequence: Sequence | None) -> SlotState:
    if sequence is None:
        return SlotState(id=i, state="idle", n_tokens=0)
    is_decoding = sequence.phase is Phase.DECODE
    return SlotState(id=i, state="decode" if is_decoding else "prefill", n_tokens=sequence.n_past)
