"""A model that has left memory and cannot be loaded again: the cloud answers in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.models.catalogue import find
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.errors import ModelError
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.residence import ModelSpec
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from tests.answers import ask
from tests.cloud_fallback.route.desk import CALM, Desk, end, handoffs, provider, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

TALE = "A tale of the cloud's own."
Start = Callable[[int], LocalEngine]


@pytest.fixture
def make_desk(fake: Fake, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []
    host = ModelHost()

    def make(start: Start, policy: PolicySettings = CALM) -> Desk:
        spec = ModelSpec(name="gone", start=start, needed_bytes=lambda gpu: DeviceBytes())
        model = HostedModel(host, host.add(spec))
        desks.append(Desk(model, tmp_path, [provider(fake)], policy=policy))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()
    host.close()


@pytest.fixture
def damaged(tmp_path: Path) -> Start:
    """Starts the worker of a file that it cannot load."""
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(64))
    return lambda most_bytes: LocalEngine(file, EngineOptions(n_threads=1, cache_dir=tmp_path))


def out_of_memory(most_bytes: int) -> LocalEngine:
    raise ModelError("the model cannot be loaded: failed to allocate buffer of size 4096")


def test_a_model_that_cannot_be_loaded_is_handed_over(
    make_desk: Callable[..., Desk], fake: Fake, damaged: Start
) -> None:
    """Its error used to reach the client though a provider could answer."""
    fake.script(Act(text=TALE))
    events = make_desk(damaged).ask(ask())
    assert [handoff.reason for handoff in handoffs(events)] == ["crash"]
    assert text(events) == TALE
    assert end(events).reason == "stop"


def test_who_waits_while_a_model_fails_to_load_is_handed_over(
    fake: Fake, tmp_path: Path, damaged: Start
) -> None:
    """So was who waited for a model without a host."""
    fake.script(Act(text=TALE))
    with damaged(0) as engine:
        desk = Desk(engine, tmp_path, [provider(fake)])
        events = desk.ask(ask())
        desk.close()
    assert [handoff.reason for handoff in handoffs(events)] == ["crash"]
    assert text(events) == TALE


def test_a_model_that_memory_does_not_hold_is_handed_over_for_that(
    make_desk: Callable[..., Desk], fake: Fake
) -> None:
    fake.script(Act(text=TALE))
    events = make_desk(out_of_memory).ask(ask())
    assert [handoff.reason for handoff in handoffs(events)] == ["memory"]
    assert text(events) == TALE


def test_a_handoff_that_is_switched_off_stays_off(
    make_desk: Callable[..., Desk], fake: Fake
) -> None:
    fake.script(Act(text=TALE))
    desk = make_desk(out_of_memory, PolicySettings(switched_off=("memory",)))
    assert desk.router.explain(ask()).outlook == "nobody"
    with pytest.raises(ModelError):
        desk.ask(ask())
    assert fake.requests == []


def test_what_would_happen_is_that_a_provider_answers(
    make_desk: Callable[..., Desk], fake: Fake, damaged: Start
) -> None:
    """It was said that nobody would."""
    desk = make_desk(damaged)
    for _ in range(2):  # not loaded yet; and after it could not be
        told = desk.router.explain(ask())
        assert told.reason is not None
        assert (told.outlook, told.reason.code) == ("cloud", "crash")
        assert "broken.gguf" in (told.local.problem or "")
    assert fake.requests == []


def test_a_model_that_is_not_loaded_yet_would_answer(make_desk: Callable[..., Desk]) -> None:
    """It was said that nobody would, because it was not loaded."""
    options = EngineOptions(n_threads=1, n_parallel=1)
    desk = make_desk(lambda _: LocalEngine(find("storyteller").path, options))
    ids = desk.router.explain(GenerationRequest(prompt=(1, 2, 3)))
    assert (ids.outlook, ids.local.problem) == ("local", None)
    words = desk.router.explain(ask())
    assert (words.outlook, words.local.problem) == ("local", None)
    assert words.local.n_prompt_tokens
