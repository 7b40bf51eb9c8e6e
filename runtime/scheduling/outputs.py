"""From what a call of the backend gave to tokens and events."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.backend import Backend
from spillover.runtime.events import FinishReason
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.scheduling.admission import Admission
from spillover.runtime.scheduling.departure import Departure
from spillover.runtime.scheduling.logprobs import RawDistribution, with_sampled
from spillover.runtime.scheduling.outbox import Outbox
from spillover.runtime.scheduling.queues import Queues
from spillover.runtime.scheduling.sequence import Sequence
from spillover.runtime.scheduling.step_plan import SliceRead, StepPlan


class Outputs:
    """Belongs to the loop. Samples what follows in each sequence, and tells the clients."""

    def __init__(
        self,
        backend: Backend,
        queues: Queues,
        kv: KvCache,
        out: Outbox,
        n_ctx: int,
        clock: Callable[[], float],
        admission: Admission,
        departure: Departure,
    ) -> None:
        self._backend = backend
        self._queues = queues
        self._kv = kv
        self._out = out
        self._n_ctx = n_ctx
        self._clock = clock
        self._admission = admission
        self._departure = departure

    def take_decoded(self, plan: StepPlan, now: float) -> int:
        """Sample for the decoding sequences of a call; the number of its outputs that were theirs,
        which are in the order of its rows."""
        output = 0
        for sequence in plan.decoding:
            draft = plan.drafts.get(sequence, [])
            self._take_tokens(sequence, output, draft, now)
            output += 1 + len(draft)
        return output

    def _take_tokens(self, sequence: Sequence, output: int, draft: list[int], now: float) -> None:
        """Sample what follows the last token of *sequence* and, as long as that is what its *draft*
        says, what follows then. The rest of the draft leaves the KV cache."""
        for n_accepted, proposed in enumerate((*draft, None)):
            self._kv.extend(sequence.seq, 1)
            sequence.n_past += 1
            token, reason = self._sample(sequence, output + n_accepted, now)
            if reason is not None or token != proposed:
                break
        if draft:
            sequence.count_draft(len(draft), n_accepted + (token == proposed))
            self._kv.rewind(sequence.seq)
        if reason is not None:
            self._departure.finish(sequence, reason)

    def take_read(self, read: SliceRead) -> None:
        """Note more tokens of a prompt; the last ones produce the first token of the answer."""
        sequence = read.sequence
        self._kv.extend(sequence.seq, read.n)
        sequence.n_past += read.n
        self._admission.report_progress(sequence)
        if read.output is None:
            return
        self._queues.start_decode(sequence)
        reason: FinishReason | None = "length"
        if sequence.n_left(self._n_ctx) > 0:
            _, reason = self._sample(sequence, read.output, self._clock())
        if reason is not None:
            self._departure.finish(sequence, reason)

    def _sample(
        self, sequence: Sequence, output: int, now: float
    ) -> tuple[int, FinishReason | None]:
        """The next token of *sequence*, and why its answer ends with it, if it does."""
        request, sampler = sequence.request, sequence.sampler
        assert sampler is not None
        raw = None
        if request.logprobs is not None:
            raw = RawDistribution(self._backend.logits(output), request.logprobs)
        token = sampler.sample(output, sequence.n_generated)
        if self._backend.is_eog(token):
            sequence.count_eog(now)
            return token, sequence.end_reason
        text_of = self._backend.token_bytes
        logprob = raw.of(token, text_of) if raw else None
        if logprob is not None and request.post_sampling_probs:
            n_top = request.logprobs or 0
            logprob = with_sampled(logprob, sampler.distribution, n_top, text_of)
        for event in sequence.append(token, text_of(token), logprob, now):
            self._out.add(sequence.job_id, event)
        if sequence.stop is not None or sequence.is_complete:
            return token, sequence.end_reason
        return token, "length" if sequence.n_left(self._n_ctx) <= 0 else None
