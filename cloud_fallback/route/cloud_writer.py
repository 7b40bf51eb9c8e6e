"""A provider writes a part of an answer, or says why it does not."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator
from contextlib import ExitStack

from msgspec.structs import replace

from spillover.cloud_fallback.errors import (
    ConsentRefused,
    ContentBlocked,
    KeptLocal,
    NetworkFailed,
    ProviderError,
    ProviderRefused,
    SeamFailed,
    Truncated,
)
from spillover.cloud_fallback.events import ProviderFailed, Replace, StreamEvent
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.route.availability.retry import retry_delay
from spillover.cloud_fallback.route.clearance import NOT_THIS_ONE, Clearance, clear
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.provider_stream import ProviderStream
from spillover.cloud_fallback.route.stopped import Complete, Stopped, WriterEnd
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.runtime.errors import InvalidRequest, SpilloverError, log_defect
from spillover.runtime.events import Delta

MAX_TRIES = 3

_log = logging.getLogger(__name__)


class CloudWriter:
    """Continues what others have written, or answers the user's question."""

    def __init__(self, provider: CloudEngine) -> None:
        self._provider = provider

    def write(
        self, context: RequestContext, stopped: Stopped | None
    ) -> Generator[StreamEvent, None, WriterEnd]:
        """See Writer."""
        assert stopped is not None, "the cloud only writes for a reason"
        if not stopped.may_leave or not context.may_continue(stopped):
            return stopped
        before = cause = stopped.cloud_error
        for n_retries in range(MAX_TRIES):
            end, wait_s = yield from self._try(context, stopped, n_retries)
            if isinstance(end, Complete):
                return end
            stopped = end
            if cause is before:  # what follows it is often only that nothing is sent for a while
                cause = stopped.cloud_error
            if wait_s == 0.0:  # the engine has learned something
                cause = before
            if wait_s is None:
                break
            context.cancellation.wait(wait_s)
        if cause is not before and not context.cancellation.cancelled:
            yield from self._report(cause)
        return stopped

    def _report(self, error: Exception | None) -> Generator[StreamEvent]:
        """Say why this provider does not write, unless that was the user's own decision."""
        if error is None or isinstance(error, ConsentRefused):
            return
        is_known = isinstance(error, SpilloverError)
        message = (
            str(error) if is_known else f"an error of Spillover's own ({type(error).__name__})"
        )
        yield ProviderFailed(
            provider=self._provider.writer,
            address=self._provider.settings.address,
            code=getattr(error, "code", "unsupported" if is_known else "internal_error"),
            message=error.cause if isinstance(error, ProviderError) else message,
        )

    def _try(
        self, context: RequestContext, stopped: Stopped, n_retries: int
    ) -> Generator[StreamEvent, None, tuple[WriterEnd, float | None]]:
        """How it ended, and after how many seconds to try again; None: do not retry."""
        with ExitStack() as stack:
            try:
                is_planned_blindly = self._provider.is_server_unknown
                text = context.text(stopped.withheld)
                plan = context.plan(self._provider, stopped, text.said)
                cleared = yield from clear(context, self._provider, plan, stopped.reason, stack)
            except NOT_THIS_ONE as error:
                return replace(stopped, cloud_error=error), None
            except KeptLocal as error:
                return replace(stopped, cloud_error=error, may_leave=False), None
            if is_planned_blindly:  # which server it is may be asked only now that all is cleared
                self._provider.find_server(context.cancellation)
                if not self._provider.is_server_unknown:
                    return stopped, 0.0
            yield from self._hand_over(context, stopped.reason, plan, cleared)
            if plan.takes_back:
                stopped = stopped.outdated()
                kept = text.feed(Replace(keep_chars=plan.keep_chars))
                # The client has the Replace; what was withheld may begin no stop string any more.
                yield from [Delta(text=piece) for piece in kept if isinstance(piece, str)]
            stream = ProviderStream(
                self._provider,
                cleared,
                joint=context.joint(plan, text, stopped.at, limits=True),
                max_tokens=context.max_cloud_tokens,
                clock=context.resources.clock,
            )
            try:
                with context.resources.consents.revocable(context.id, stream.cancellation):
                    cleared.reservation.note(0)
                    yield from stream.events(context.cancellation)
            except Exception as error:  # a bug in Spillover must not cost the user the answer
                self._settle_failed(context, cleared, stream, error)
                wait_s = _retry_s(error, stream, n_retries)
                return _stopped_by(error, context, stopped, stream), wait_s
            return self._end(context, stopped, cleared, stream), None

    def _hand_over(
        self, context: RequestContext, reason: Reason, plan: Continuation, cleared: Clearance
    ) -> Generator[StreamEvent]:
        if context.writer != self._provider.writer:
            yield context.hand_over(
                self._provider.writer,
                reason,
                keep_chars=plan.keep_chars,
                redactions=cleared.redacted.n_redactions,
            )
        if plan.keep_chars < context.answer.n_chars:
            yield Replace(keep_chars=plan.keep_chars)

    def _end(
        self, context: RequestContext, stopped: Stopped, cleared: Clearance, stream: ProviderStream
    ) -> WriterEnd:
        """The end of a stream that did not fail."""
        answer = context.answer
        leg = cleared.reservation.settle(stream.leg(), stream.cached_tokens)
        answer.leg_ended(leg, lost_share=stream.lost_share)
        if context.cancellation.cancelled:
            return Complete(answer.finished("cancelled"))
        if stream.end_reason == "cancelled":  # the user wants the answer to stay local
            reason = Reason(code="user", is_hard=True)
            return replace(_moved(context, stopped, stream, reason), may_leave=False)
        cleared.permit.success()
        if stream.ignored_prefill:
            self._provider.api.ignored_prefill()
        if (missing := self._missing(context, stream)) is not None:
            return _stopped_by(missing, context, stopped, stream)
        if context.local.policy_settings.is_on("sticky"):
            context.stays_with(self._provider.name)
        return Complete(answer.finished(stream.end_reason, stream.stop))

    def _missing(self, context: RequestContext, stream: ProviderStream) -> Truncated | None:
        """What is missing in an answer that the provider calls complete."""
        if not stream.is_ended_by_provider:
            return None
        is_cut = stream.end_reason == "length" and context.answer.remaining_tokens != 0
        if is_cut and not stream.n_chars:
            return Truncated(self._provider.name, "it spent all its tokens on reasoning")
        if stream.end_reason == "stop" and stream.is_empty and not context.request.stop:
            return Truncated(self._provider.name, "its answer is empty")
        return None

    def _settle_failed(
        self, context: RequestContext, cleared: Clearance, stream: ProviderStream, error: Exception
    ) -> None:
        """Report and settle a request that failed."""
        if isinstance(error, ProviderError):
            cleared.permit.failure(error)
        elif not isinstance(error, KeptLocal | SeamFailed | InvalidRequest):
            log_defect(_log, f"{self._provider.name} left", error)
        if stream.has_answered or (isinstance(error, ProviderError) and error.may_bill):
            leg = cleared.reservation.settle(stream.leg(), stream.cached_tokens)
            context.answer.leg_ended(leg, lost_share=stream.lost_share)
        else:
            cleared.reservation.release()


def _stopped_by(
    error: Exception, context: RequestContext, stopped: Stopped, stream: ProviderStream
) -> Stopped:
    reason = Reason(code="network" if isinstance(error, NetworkFailed) else "provider")
    # What a content policy blocked is not sent to another provider.
    may_leave = not isinstance(error, ContentBlocked)
    end = _moved(context, stopped, stream, reason)
    return replace(end, cloud_error=error, may_leave=may_leave)


def _moved(
    context: RequestContext, stopped: Stopped, stream: ProviderStream, reason: Reason
) -> Stopped:
    """*stopped* as of now, for *reason*."""
    if stream.n_chars or context.answer.began_tool_call:
        stopped = stopped.outdated()
    return replace(stopped, reason=reason, at=context.now)


def _retry_s(error: Exception, stream: ProviderStream, n_retries: int) -> float | None:
    """After how many seconds to ask the same provider again; None: ask the next one."""
    if stream.has_answered or not isinstance(error, ProviderError):
        return None
    if isinstance(error, ProviderRefused) and error.no_prefill:
        return 0.0  # the engine has learned from the refusal
    return retry_delay(error, n_retries, chance=random.random())
