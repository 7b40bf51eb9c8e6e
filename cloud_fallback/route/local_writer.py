"""The local model writes a part of an answer: the first one, or the last one as a last resort."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from functools import partial
from itertools import takewhile
from typing import get_args

import msgspec

from spillover.cloud_fallback.errors import ContentBlocked, ProviderError
from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import STRAIN, Reason, ReasonCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch, logprobs_wanted
from spillover.cloud_fallback.route.answer_so_far import local_leg
from spillover.cloud_fallback.route.clearance import ask_early
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.joint import Joint
from spillover.cloud_fallback.route.stopped import Complete, Stopped, WriterEnd
from spillover.cloud_fallback.route.unsent_events import followed_by, n_tokens_of
from spillover.cloud_fallback.route.watched_stream import UNWANTED, WatchedStream
from spillover.cloud_fallback.seam.continuation import plan_continuation
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    ImagesRefused,
    InvalidRequest,
    ModelError,
    NoRoomForModel,
    ResponseFormatRefused,
    SpilloverError,
    shortage_in,
)
from spillover.runtime.events import Delta, EngineEvent, Leg, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import GenerationRequest

UNWATCHED = PolicySettings(switched_off=tuple(c for c in get_args(ReasonCode) if c != "user"))
"""Only the user may hand the answer over."""


class LocalWriter:
    """For one use. *policy* None: only the user may hand over what it writes. *reason*: the cloud
    should write the answer, and the user is asked whether it may."""

    def __init__(self, policy: LocalPolicy | None = None, reason: Reason | None = None) -> None:
        self._policy = policy
        self._reason = reason

    def write(
        self, context: RequestContext, stopped: Stopped | None
    ) -> Generator[StreamEvent, None, WriterEnd]:
        """See Writer. With *stopped*, no provider continues: the local model does, or the answer
        ends with what the model had held back."""
        n_handoffs = context.answer.n_handoffs
        if stopped is not None:
            complete = yield from _come_back(context, stopped)
            if complete is not None:
                return complete
        stream: WatchedStream | None = None
        joint: Joint | None = None
        began_at = context.now
        try:
            request, joint = self._plan(context, announces=context.answer.n_handoffs > n_handoffs)
            context.stream = stream = self._open(context, request)
            reason = self._reason_before(context, stream)
            if reason is not None:
                return Stopped(reason=reason, at=context.now)
            end = yield from self._follow(context, stream, joint)
        except (EngineError, InvalidRequest, ModelError) as error:
            n_written = 0 if stream is None else _broke_off(context, stream, began_at)
            reason = reason_of(error, context.local.engine)
            if reason is None and (n_written or context.answer.has_begun):
                # It was served so far: the request itself is not wrong.
                reason = Reason(code="crash", is_hard=True)
            if reason is None:
                raise
            cloud_error = stopped.cloud_error if stopped is not None else None
            return Stopped(
                reason=reason,
                at=context.now,
                held=stream.held() if stream is not None and joint is None else (),
                local_error=error,
                cloud_error=cloud_error,
                may_leave=may_leave_after(reason, context)
                and not isinstance(cloud_error, ContentBlocked),
            )
        finally:
            context.stream = None
        return _ended(context, stream, joint, end)

    def _reason_before(self, context: RequestContext, stream: WatchedStream) -> Reason | None:
        """Why the answer should not begin here."""
        if self._policy is None:
            return None
        resources, reason = context.resources, self._reason
        if reason is None:
            reason = stream.watch.before(context.local.engine.status(), resources.sensors.read())
        if reason is None:
            if not context.must_ask:
                resources.warm_first()
            return None
        if context.is_granted(reason):
            return reason
        if reason.code in UNWANTED:
            reason = msgspec.structs.replace(reason, keep_chars=0)
        stream.trigger(reason)
        return None

    def _plan(
        self, context: RequestContext, *, announces: bool
    ) -> tuple[GenerationRequest, Joint | None]:
        """The request to the model, and how its text is joined to the answer so far."""
        request, answer = context.request, context.answer
        if not answer.has_begun:
            if self._policy is not None:
                n_top = logprobs_wanted(request, self._policy.settings)
                request = msgspec.structs.replace(request, logprobs=n_top)
            return request, None
        text, local = context.text(), context.local.engine
        plan = plan_continuation(
            request,
            text.said,
            target="local",
            tokens_left=answer.remaining_tokens,
            tokenize=lambda text: local.tokenize(text, add_special=False, parse_special=False),
        )
        return plan.request, context.joint(plan, text, context.now, announces=announces)

    def _open(self, context: RequestContext, request: GenerationRequest) -> WatchedStream:
        resources = context.resources

        def watch(on_trigger: Callable[[Reason], None]) -> Watch:
            clock = resources.clock
            if self._policy is not None:
                return self._policy.watch(request, clock=clock, on_trigger=on_trigger)
            return Watch(UNWATCHED, request, clock=clock, on_trigger=on_trigger)

        return WatchedStream(
            context.local.engine,
            request,
            answer=context.answer,
            mode=context.mode,
            settings=resources.settings,
            make_watch=watch,
            alarms=resources.alarms,
            clock=resources.clock,
            ask=partial(ask_early, context) if context.must_ask else None,
            end_question=context.end_question,
            may_replace=context.options.may_replace,
            hides_first_word=self._may_begin_anew(context),
        )

    def _may_begin_anew(self, context: RequestContext) -> bool:
        """Whether another writer may take over and could not take back what was shown."""
        may_leave = context.allowed.may_leave and context.may_go_to_cloud and context.providers()
        return bool(may_leave) and not (context.answer.has_begun or context.options.may_replace)

    def _follow(
        self, context: RequestContext, stream: WatchedStream, joint: Joint | None
    ) -> Generator[StreamEvent, None, WriterEnd]:
        """The events of *stream*, which the sensors watch where a policy does."""
        policy = self._policy
        sensing = context.resources.sensors.watching(stream.watch) if policy else nullcontext()
        with sensing:
            if joint is None:
                end = yield from stream.events(context.cancellation)
            else:
                end = yield from _joined(context, stream, joint)
        stream.watch.learn()
        return end


def _joined(
    context: RequestContext, stream: WatchedStream, joint: Joint
) -> Generator[StreamEvent, None, WriterEnd]:
    """The stream's events, with its text joined to the answer so far."""
    untold: Delta | None = None
    with closing(stream.events(context.cancellation)) as events:
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                end: WriterEnd = stop.value
                if joint.stopped is None:
                    yield from _with_tokens(untold, joint.end())
                return end
            if joint.stopped is not None:
                continue  # it is ending
            if isinstance(event, Delta | ReasoningDelta | ToolCallDelta) and event.measures:
                leg = local_leg(context.local.writer, event.measures)
                event = msgspec.structs.replace(event, measures=context.answer.measured(leg))
            if not isinstance(event, Delta):
                yield event
                continue
            pieces = joint.feed(event.text)
            untold = event if untold is None else followed_by(untold, event)
            yield from _with_tokens(untold, pieces)
            if any(isinstance(piece, Delta) for piece in pieces):
                untold = None
            if joint.stopped is not None:
                stream.stop()


def _with_tokens(untold: Delta | None, pieces: list[StreamEvent]) -> list[StreamEvent]:
    """*pieces*, with the tokens of *untold* at the last text, which they may run ahead of."""
    told = [*pieces]
    for index in reversed(range(len(told))):
        piece = told[index]
        if untold is not None and isinstance(piece, Delta):
            told[index] = msgspec.structs.replace(untold, text=piece.text)
            break
    return told


def _ended(
    context: RequestContext, stream: WatchedStream, joint: Joint | None, end: WriterEnd
) -> WriterEnd:
    answer, finished = context.answer, stream.finished
    assert finished is not None, "the stream has ended"
    answer.leg_ended(local_leg(context.local.writer, finished), finished.timings)
    if isinstance(end, Stopped):
        _note_unsent(context, end.held)
    if stream.deferred is not None:
        context.stays_with(context.resources.providers[0].name)
    if joint is not None and joint.stopped is not None:
        return Complete(answer.finished("stop", joint.stopped))
    if isinstance(end, Stopped) and not context.cancellation.cancelled:
        return end
    if answer.n_handoffs or len(answer.legs) > 1:
        return Complete(answer.finished(finished.reason, finished.stop))
    return Complete(finished)


def _broke_off(context: RequestContext, stream: WatchedStream, began_at: float) -> int:
    """Count what was written before an error, and return its tokens."""
    signals, answer = stream.watch.signals, context.answer
    if signals.n_tokens:
        leg = Leg(
            writer=context.local.writer,
            prompt_tokens=signals.n_prompt_tokens or 0,
            completion_tokens=signals.n_tokens,
            reasoning_tokens=signals.n_reasoning_tokens,
            duration_ms=1e3 * (context.now - began_at),
            cost_usd=0.0,
            estimated=True,
        )
        answer.leg_ended(leg)
        _note_unsent(context, stream.held())
    return signals.n_tokens


def _note_unsent(context: RequestContext, held: tuple[EngineEvent, ...]) -> None:
    """*held* leaves its tokens to the next writer. An answer that has all of max_tokens is over,
    *held* included, unless the user is asked for another one."""
    if context.must_ask or context.answer.remaining_tokens != 0:
        context.answer.n_unsent += n_tokens_of(held)


# --- the last resort ------------------------------------------------------------------------


def _come_back(
    context: RequestContext, stopped: Stopped
) -> Generator[StreamEvent, None, Complete | None]:
    """Decide what happens when no provider continues. None: the local model does; otherwise the
    answer ends."""
    answer, end, held = context.answer, stopped.local_end, stopped.held
    if end is None:  # the call that it had begun is made again
        held = tuple(takewhile(lambda event: not isinstance(event, ToolCallDelta), held))
    answer.n_unsent = max(answer.n_unsent - n_tokens_of(held), 0)  # it is sent after all
    is_spent = answer.remaining_tokens == 0
    cannot = (stopped.local_error is not None or not context.allowed.local) and not is_spent
    if answer.began_tool_call and end is None and not cannot:
        return Complete(answer.finished("interrupted"))  # half a call cannot be continued
    goes_on = end is None and not is_spent and not cannot
    if context.writer.origin == "cloud" and (goes_on or held):
        context.stays_with(None)
        local = context.local.writer
        yield context.hand_over(local, stopped.reason, keep_chars=answer.n_chars)
    yield from held
    if goes_on:
        return None
    if cannot:
        return _give_up(context, stopped)
    if end is None:
        return Complete(answer.finished("length"))
    return Complete(answer.finished(end.reason, end.stop) if answer.n_handoffs else end)


def _give_up(context: RequestContext, stopped: Stopped) -> Complete:
    """End an answer that no writer can continue: with an error before the first word, later with an
    end that is never "stop"."""
    answer = context.answer
    if answer.has_begun:
        is_full = isinstance(stopped.local_error, ContextOverflow)
        return Complete(answer.finished("length" if is_full else "interrupted"))
    if isinstance(stopped.local_error, ImagesRefused) and stopped.cloud_error is not None:
        raise _unseen(stopped.local_error, stopped.cloud_error)
    errors = [stopped.local_error, stopped.cloud_error]
    if answer.n_handoffs:
        errors.reverse()
    found = (error for error in errors if error is not None)
    raise next(found, EngineError("no provider could be asked, and the answer may not begin here"))


def _unseen(refused: ImagesRefused, cause: Exception) -> Exception:
    """Why nobody answers about an image. Only a provider could, so its failure counts, as one
    that may pass; what it cannot or may not do is for the client to change."""
    return cause if isinstance(cause, ProviderError) else refused.because(str(cause))


def may_leave_after(reason: Reason, context: RequestContext) -> bool:
    """Nobody waits for an answer of the background: what passes on the device is not worth money,
    nor that it leaves."""
    is_worth_it = not context.request.is_background or reason.code not in STRAIN
    return is_worth_it and context.local.policy_settings.is_on(reason.code)


def reason_of(error: SpilloverError, local: TextEngine) -> Reason | None:
    """Why another writer should answer after an *error* of *local*; None: no writer could, since
    the request itself is wrong."""
    match error:
        case ContextOverflow():
            found = {"n_prompt_tokens": float(error.n_prompt_tokens), "n_ctx": float(error.n_ctx)}
            return Reason(code="context", is_hard=True, signals=found)
        case ResponseFormatRefused():
            return Reason(code="schema", is_hard=True)
        case ImagesRefused():
            return Reason(code="modality", is_hard=True)
        case InvalidRequest():
            return None
        case EngineBusy():
            found = {"n_queued": float(local.status().n_queued)}
            return Reason(code="queue", is_hard=True, signals=found)
        case NoRoomForModel():
            found = {"missing_bytes": float(error.missing_bytes)}
            return Reason(code="memory", is_hard=True, signals=found)
        case ModelError() if shortage_in(str(error)):
            return Reason(code="memory", is_hard=True)
        case _:
            # Not status(): it asks a worker that may not respond.
            found = {"n_restarts": float(local.health().n_restarts)}
            return Reason(code="crash", is_hard=True, signals=found)
