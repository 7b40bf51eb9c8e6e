"""The loop of a model that makes vectors or scores and nothing else."""

from __future__ import annotations

from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.embedding.queue import EmbeddingQueue
from spillover.runtime.engine import SlotState
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.sequence import Job


class EmbeddingLoop:
    """Makes one call after the other for the jobs of *queue*."""

    n_kv_used = 0

    def __init__(self, queue: EmbeddingQueue) -> None:
        self._queue = queue
        self._inbox = Inbox(1, 0)
        self.n_steps = 0
        """Calls of the model so far."""

    # --- any thread -------------------------------------------------------------------------

    def submit_embedding(self, job: EmbeddingJob, *, unlimited: bool = False) -> None:
        """Queue a job and notify its client. Raises EngineBusy when there are too many, unless
        *unlimited*."""
        self._queue.accept(job, unlimited=unlimited)
        self._inbox.post(job)

    def cancel(self, job_id: int) -> None:
        """End the rest of a job at the next call."""
        self._inbox.post(job_id)
        self._queue.interrupt(job_id)

    def stop(self) -> None:
        """Make run() return soon."""
        self._inbox.stop()
        self._queue.embedder.abort()

    def slots(self) -> tuple[SlotState, ...]:
        """None: no sequence outlives a call."""
        return ()

    @property
    def n_queued(self) -> int:
        return self._queue.n_open

    # --- the loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stop(). Raises DecodeFailed when the model cannot be run any more."""
        while (orders := self._inbox.take(wait_s=0 if self._queue else None)) is not None:
            for order in orders:
                if isinstance(order, EmbeddingJob):
                    self._queue.add(order)
                elif not isinstance(order, Job):
                    self._queue.cancel(order)
            if self._queue:
                self._queue.run_one(self._queue.embedder.n_batch)
                self.n_steps += 1
