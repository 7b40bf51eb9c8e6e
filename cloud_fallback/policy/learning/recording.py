"""Asks a model every labelled prompt and records its answers."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

import msgspec

from spillover.cloud_fallback.policy.calibration_store import fingerprint
from spillover.cloud_fallback.policy.learning.items import Item, is_right
from spillover.cloud_fallback.policy.learning.trace import Recorder, Trace
from spillover.cloud_fallback.policy.watch import N_TOP_LOGPROBS
from spillover.runtime.engine import Engine, TextEngine
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Finished
from spillover.runtime.request import GenerationRequest
from spillover.runtime.sampling import Sampling

MAX_TOKENS = 512
"""Of an item that sets none."""


def record(
    engine: TextEngine, items: Sequence[Item], *, sampling: Sampling, max_tokens: int = MAX_TOKENS
) -> Generator[Trace]:
    """One labelled trace for each item, in order. Raises what the engine raises.

    Item i samples with the seed of *sampling* + i, so that no lucky draw decides for all.
    """
    for number, item in enumerate(items):
        seed = None if sampling.seed is None else sampling.seed + number
        request = GenerationRequest(
            messages=item.conversation,
            sampling=msgspec.structs.replace(sampling, seed=seed),
            max_tokens=item.max_tokens or max_tokens,
            logprobs=N_TOP_LOGPROBS,
        ).checked()
        trace = _record(engine, item.id, request)
        key = fingerprint(engine.card)
        yield _labelled(msgspec.structs.replace(trace, model=engine.name, fingerprint=key), item)


def relabel(traces: Iterable[Trace], items: Sequence[Item]) -> list[Trace]:
    """The recorded answers to *items*, judged by their checks as they are now.

    InvalidRequest names an item that was not asked, or a second model among the answers.
    """
    by_id = {trace.id: trace for trace in traces}
    if len({trace.fingerprint for trace in by_id.values()}) > 1:
        raise InvalidRequest("the recorded answers are those of several models")
    found = []
    for item in items:
        trace = by_id.get(item.id)
        if trace is None or trace.messages != item.conversation:
            raise InvalidRequest(f"there is no recorded answer to the prompt {item.id!r}")
        found.append(_labelled(trace, item))
    return found


def _labelled(trace: Trace, item: Item) -> Trace:
    right = is_right(item, trace.answer, ended=trace.finish == "stop")
    return msgspec.structs.replace(trace, group=item.group, wrong=not right)


def _record(engine: Engine, name: str, request: GenerationRequest) -> Trace:
    recorder = Recorder()
    began = time.monotonic()
    end: Finished | None = None
    with closing(engine.stream(request)) as events:
        for event in events:
            recorder.see(event, time.monotonic() - began)
            if isinstance(event, Finished):
                end = event
    assert end is not None, "an engine's stream ends with Finished"
    return recorder.trace(name, request, end)
