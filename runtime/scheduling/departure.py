"""Takes sequences off their slots: because their answers end, or others need their KV cells."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.events import FinishReason, Queued
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling.beside import Beside
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.outbox import Outbox
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.sequence import Phase, Sequence
from spillover.runtime.scheduling.step_plan import victim


class Departure:
    """Belongs to the loop. Tells the clients what became of their answers."""

    def __init__(
        self,
        queues: Queues,
        kv: KvCache,
        beside: Beside,
        out: Outbox,
        inbox: Inbox,
        clock: Callable[[], float],
    ) -> None:
        self._queues = queues
        self._kv = kv
        self._beside = beside
        self._out = out
        self._inbox = inbox
        self._clock = clock

    def make_room(self, n_cells: int) -> bool:
        """Free KV cells for the next call. False when it must be planned again because a sequence
        was preempted."""
        if self._kv.make_room(n_cells):
            return True
        self._preempt(victim(self._queues))
        return False

    def free_some_cells(self) -> None:
        """The ledger saw room but the backend found none: its cells may be fragmented."""
        if not self._kv.evict_one():
            self._preempt(victim(self._queues))

    def _preempt(self, sequence: Sequence) -> None:
        """Free the KV cells of *sequence* and queue it again, with its text. If it is the only one,
        the cache is too small for it and its answer ends."""
        if self._queues.n_running == 1:
            self.finish(sequence, "length")
            return
        self.requeue(sequence)

    def requeue(self, sequence: Sequence) -> None:
        """Queue a running sequence again, to be read again with its text."""
        seq, tokens = sequence.seq, sequence.tokens[: sequence.n_past]
        self._beside.drop(sequence)
        self._queues.requeue(sequence)
        if sequence.is_background:
            in_parts = bool(self._queues.decoding)
            self._kv.release(seq, tokens, first_out=True, in_parts=in_parts)
        else:
            self._kv.drop(seq)
        self._out.add(sequence.job_id, Queued(position=0, n_prompt_tokens=sequence.n_prompt))

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End the answer of *sequence*, whether it runs or waits."""
        now = self._clock()
        self._beside.drop(sequence)
        is_placed = sequence.phase is not Phase.WAITING
        self._queues.leave(sequence)
        if is_placed:
            self._kv.release(
                sequence.seq,
                sequence.tokens[: sequence.n_past],
                sequence.n_preamble,
                first_out=sequence.is_background,
                in_parts=bool(self._queues.decoding),
            )
        if sequence.sampler is not None:
            sequence.sampler.close()
        for event in sequence.finish(reason, now):
            self._out.add(sequence.job_id, event)
        self._inbox.close_one(sequence.request.priority, sequence.service_s(now))
