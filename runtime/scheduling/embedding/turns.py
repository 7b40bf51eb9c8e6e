"""Embeddings of a model that also answers: when they have their turn, and how much they read."""

from __future__ import annotations

from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.embedding.queue import EmbeddingQueue
from spillover.runtime.scheduling.pace.pace import Pace
from spillover.runtime.scheduling.pace.slice_costs import SliceCosts
from spillover.runtime.scheduling.pace.slice_plan import plan_slice


class EmbeddingTurns:
    """Runs the calls of an EmbeddingQueue between the steps of a scheduler. Where prompts are to
    be read, too, they have every other turn."""

    def __init__(self, queue: EmbeddingQueue, pace: Pace) -> None:
        self.queue = queue
        self._pace = pace
        self._costs = SliceCosts()
        self._had_last_turn = False

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self.queue)

    def take(self, order: EmbeddingJob | int) -> None:
        """Begin a job, or cancel the one of this id."""
        if isinstance(order, EmbeddingJob):
            self.queue.add(order)
        else:
            self.queue.cancel(order)

    def have_turn(self, *, prompts_wait: bool) -> bool:
        """Whether they may compute before the next step. *prompts_wait*: that step would read
        prompts."""
        self._had_last_turn = bool(self.queue) and not (self._had_last_turn and prompts_wait)
        return self._had_last_turn

    def run(self, n_decoding: int | None) -> None:
        """Make one call, which *n_decoding* sequences wait for; None: nobody does."""
        call = self.queue.run_one(self._n_tokens(n_decoding))
        if call is not None:
            self._costs.observe(call.n_tokens, call.depth, call.seconds)

    def _n_tokens(self, n_decoding: int | None) -> int:
        n_most = self.queue.embedder.n_batch
        if n_decoding is None:
            return n_most
        return plan_slice(
            self._costs,
            None,
            n_left=n_most,
            depth=0,
            n_most=n_most,
            room_s=self._pace.gap_s(n_decoding),
            decode_s=self._pace.decode_s(n_decoding) or 0.0,
        ).n_tokens
