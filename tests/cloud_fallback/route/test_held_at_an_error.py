"""Text that is kept back in doubt when the local engine breaks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineError
from spillover.runtime.events import Delta, EngineEvent
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest
from tests.cloud_fallback.route.desk import Desk, end, handoffs, long, provider, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

DOUBTS: dict[str, Any] = {
    "p_wrong_hold": 0.0,
    "p_wrong_enter": 1.0,
    "p_wrong_forget": 0.0,
    "hold_tokens": 1024,
    "hold_s": 600,
}
"""Nearly all is kept back, and nothing is handed over for it."""
N_DELTAS = 60


class Breaking:
    """The engine, which breaks after so much text."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        n_deltas = 0
        with closing(self._engine.stream(request, cancellation)) as events:
            for event in events:
                n_deltas += isinstance(event, Delta)
                if n_deltas > N_DELTAS:
                    raise EngineError("the worker died too often")
                yield event


@pytest.fixture
def make_breaking(engine: LocalEngine, fake: Fake, tmp_path: Path) -> Iterable[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**policy: Any) -> Desk:
        breaking: Any = Breaking(engine)
        settings = PolicySettings(**DOUBTS, **policy)
        desks.append(Desk(breaking, tmp_path, [provider(fake)], policy=settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def said(engine: LocalEngine, make_breaking: Callable[..., Desk]) -> str:
    """What the engine says before it breaks."""
    events: list[EngineEvent] = []
    request = long()
    with closing(engine.stream(request)) as stream:
        for event in stream:
            events.append(event)
            if sum(isinstance(event, Delta) for event in events) == N_DELTAS:
                break
    return text(events)


@pytest.mark.parametrize("switched_off", [(), ("crash",)])
def test_held_text_is_sent_before_the_end_when_no_writer_continues(
    make_breaking: Callable[..., Desk], fake: Fake, said: str, switched_off: tuple[str, ...]
) -> None:
    """It used to be lost: the answer broke off with its first few words."""
    desk = make_breaking(switched_off=switched_off)
    fake.script(Act(refusal="auth"))
    events = desk.ask(long())
    assert text(events) == said
    assert end(events).reason == "interrupted"


def test_held_text_does_not_interfere_when_a_writer_continues(
    make_breaking: Callable[..., Desk], fake: Fake, said: str
) -> None:
    desk = make_breaking()
    fake.script(Act(rest=" And so it ended."))
    events = desk.ask(long())
    (handoff,) = handoffs(events)
    assert handoff.reason == "crash"
    shown = text(events[: events.index(handoff)])
    assert said.startswith(shown)
    assert text(events) == shown + " And so it ended."
