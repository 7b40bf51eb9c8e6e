"""The route of one answer through its writers: one generator, one thread.

| what | where |
|---|---|
| who decides that the local model stops | `Watch`, in the `WatchedStream` of `LocalWriter` |
| what must agree before anything leaves | `clear()`: breaker, redaction, consent, budget |
| who announces a handoff | the writer that takes over, with `context.hand_over()` |
| where two texts are joined | `Joint`, from `context.joint()` |
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

from spillover.cloud_fallback.events import ProviderFailed, StreamEvent
from spillover.cloud_fallback.route.cloud_writer import CloudWriter
from spillover.cloud_fallback.route.context import RequestContext
from spillover.cloud_fallback.route.local_writer import LocalWriter
from spillover.cloud_fallback.route.stopped import Complete, Stopped, WriterEnd


class Writer(Protocol):
    """Writes a part of an answer."""

    def write(
        self, context: RequestContext, stopped: Stopped | None
    ) -> Generator[StreamEvent, None, WriterEnd]:
        """Yield what the client may see, but not the end of the answer.

        *stopped*: how the last writer stopped; None: there was no writer yet. A writer that cannot
        continue yields nothing and returns *stopped* with its own error.
        """
        ...


def route(context: RequestContext) -> Generator[StreamEvent]:
    """Yield the events of one answer.

    Raises InvalidRequest or EngineError when no writer can begin it. An answer that has begun
    always ends with Finished, even if "interrupted".
    """
    try:
        for event in _after_the_first(_route(context)):
            context.sent(event)
            yield event
    finally:
        context.asking.close()
        context.record_legs()


def _after_the_first(events: Generator[StreamEvent]) -> Generator[StreamEvent]:
    """*events* that begin with another event than a provider's failure: where nobody can begin the
    answer, it is refused with that failure instead of beginning with it."""
    held: list[StreamEvent] | None = []
    with closing(events):
        for event in events:
            if held is not None and isinstance(event, ProviderFailed):
                held.append(event)
                continue
            yield from held or ()
            held = None
            yield event


def _route(context: RequestContext) -> Generator[StreamEvent]:
    stopped = context.reason_to_begin_in_cloud()
    first: LocalWriter | None = None
    if stopped is None:
        first = LocalWriter(context.local.policy())
    elif context.allowed.local and not context.is_granted(stopped.reason):
        # The model goes on while the user is asked.
        first = LocalWriter(context.local.policy(), stopped.reason)
        stopped = None
    for writer in _writers(context, first):
        if stopped is not None and context.cancellation.cancelled:
            yield context.answer.finished("cancelled")
            return
        end = yield from writer.write(context, stopped)
        if isinstance(end, Complete):
            yield from context.end_question()  # one that nobody could wait for any more
            yield end.finished
            return
        stopped = end


def _writers(context: RequestContext, first: LocalWriter | None) -> Generator[Writer]:
    """*first*; then the providers in order; then the local model again, unwatched. The last
    one continues or ends the answer: a further round begins only when it fails, or when the user
    hands the answer over again."""
    if first is not None:
        yield first
    while True:
        for provider in context.providers():
            yield CloudWriter(provider)
        yield LocalWriter()
