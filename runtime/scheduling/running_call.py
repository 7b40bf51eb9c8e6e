"""The call of the backend that runs, which other threads may end."""

from __future__ import annotations

from spillover.runtime.backend import Backend, DecodeAborted, KvFull
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling.departure import Departure
from spillover.runtime.scheduling.inbox import Inbox
from spillover.runtime.scheduling.sequence import Job, Sequence
from spillover.runtime.scheduling.speculation import Speculation
from spillover.runtime.scheduling.step_plan import StepPlan


class RunningCall:
    """The loop makes it. A call for one sequence alone serves no other, so there is no need to wait
    for it when its job is cancelled; nor for one that reads for the background when others come.
    """

    def __init__(
        self,
        backend: Backend,
        kv: KvCache,
        inbox: Inbox,
        departure: Departure,
        speculation: Speculation | None,
    ) -> None:
        self._backend = backend
        self._kv = kv
        self._inbox = inbox
        self._departure = departure
        self._speculation = speculation
        self._alone: Sequence | None = None
        self._reads_background = False

    def make(self, plan: StepPlan) -> bool:
        """Run the backend; False when nothing was read. A call that others may end is skipped when
        they are here already."""
        batch = plan.rows()
        self._alone = plan.alone
        self._reads_background = bool(plan.slices) and plan.slices[0][0].is_background
        try:
            if (self._alone is not None or self._reads_background) and self._inbox:
                return False
            self._backend.decode(batch)
        except DecodeAborted:
            for sequence in plan.sequences:
                if self._kv.rewind(sequence.seq) < sequence.n_past:
                    self._departure.requeue(sequence)
            return False
        except KvFull:
            if plan.drafts and self._speculation is not None:
                self._speculation.pause()
            else:
                self._departure.free_some_cells()
            return False
        finally:
            self._alone, self._reads_background = None, False
        return True

    def yield_to(self, job: Job) -> None:
        """End it if it reads for the background, and *job* is of others; any thread."""
        if self._reads_background and not job.is_background:
            self._backend.abort()

    def cancel(self, job_id: int) -> None:
        """End it if it serves nobody but this job; any thread."""
        alone = self._alone
        if alone is not None and alone.job_id == job_id:
            self._backend.abort()
