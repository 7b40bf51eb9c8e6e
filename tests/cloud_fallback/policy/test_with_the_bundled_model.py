"""The watch over real answers of the bundled model, as it comes."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from spillover.cloud_fallback.policy.calibration import pooled_calibration
from spillover.cloud_fallback.policy.local_policy import LocalPolicy
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import ModelFacts, PolicySettings
from spillover.cloud_fallback.policy.watch import Watch, logprobs_wanted
from spillover.models.catalogue import default_model
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import EngineStatus
from spillover.runtime.events import Delta, Finished
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, Tool
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.policy.answers import asked
from tests.measured import measured

SETTINGS = PolicySettings()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalEngine]:
    options = EngineOptions(
        n_parallel=1, cache_dir=measured(tmp_path_factory.mktemp("cache")), n_threads=1
    )
    with LocalEngine(default_model().path, options) as engine:
        engine.wait_ready(60)
        yield engine


@pytest.fixture(scope="module")
def policy(engine: LocalEngine, tmp_path_factory: pytest.TempPathFactory) -> LocalPolicy:
    return LocalPolicy(SETTINGS, engine.card, data_dir=tmp_path_factory.mktemp("data"))


class Seen:
    """One watched answer: what would have reached the client, and why it ended."""

    def __init__(self, engine: LocalEngine, policy: LocalPolicy, prompt: str) -> None:
        request = asked(prompt, sampling=Sampling(temperature=0.0), max_tokens=300)
        request = msgspec.structs.replace(request, logprobs=logprobs_wanted(request, SETTINGS))
        self.sent = ""
        self.reason: Reason | None = None
        self.n_triggers = 0
        self._run(engine, self._watch(policy, request), request)

    def _watch(self, policy: LocalPolicy, request: GenerationRequest) -> Watch:
        def trigger(_reason: Reason) -> None:
            self.n_triggers += 1

        return policy.watch(request, clock=time.monotonic, on_trigger=trigger)

    def _run(self, engine: LocalEngine, watch: Watch, request: GenerationRequest) -> None:
        assert watch.before(engine.status(), None) is None
        cancellation, held = Cancellation(), ""
        for event in engine.stream(request, cancellation):
            if isinstance(event, Finished):
                self.reason = watch.finished(event)
                if self.reason is None:
                    self.sent += held
                return
            verdict = watch.see(event)
            if verdict == "handoff":
                cancellation.cancel()
            elif isinstance(event, Delta):
                held += event.text
                if verdict == "pass":
                    self.sent, held = self.sent + held, ""


def test_stories_in_its_field_stay_local(engine: LocalEngine, policy: LocalPolicy) -> None:
    """Most of them: a near tie can lead a story to where the model is unsure."""
    assert policy.local.calibration is not None
    prompts = [
        f"Tell me a story about a {hero}." for hero in ("dog named Max", "cat", "little owl")
    ]
    local = [seen for seen in (Seen(engine, policy, p) for p in prompts) if seen.reason is None]
    assert len(local) >= 2
    assert all(seen.sent for seen in local)


@pytest.mark.parametrize(
    "prompt", ["What is the capital of Sweden?", "Write a Python function that reverses a list."]
)
def test_a_refusal_is_handed_over_before_a_word_of_it_is_sent(
    engine: LocalEngine, policy: LocalPolicy, prompt: str
) -> None:
    seen = Seen(engine, policy, prompt)
    assert seen.reason is not None
    # Which of the two sees it first hangs on how the model words it.
    assert seen.reason.code in ("refusal", "low_confidence")
    assert seen.reason.keep_chars == 0
    assert seen.sent == ""


def test_requests_that_the_model_cannot_serve_do_not_begin_locally(policy: LocalPolicy) -> None:
    ready = EngineStatus(state="ready")
    for request, code in (
        (asked("Erzähl mir bitte eine Geschichte über einen Hund und eine Katze."), "language"),
        (asked("What is the weather?", tools=(Tool(name="weather"),)), "tools"),
    ):
        watch = policy.watch(request, clock=time.monotonic, on_trigger=lambda reason: None)
        reason = watch.before(ready, None)
        assert reason is not None
        assert reason.code == code


def test_the_shipped_calibration_belongs_to_the_shipped_file(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Another quantization of the same model has none of its own."""
    other = msgspec.structs.replace(engine.card, size_bytes=engine.card.size_bytes + 1)
    local = LocalPolicy(SETTINGS, other, data_dir=tmp_path).local
    assert local.calibration == pooled_calibration(other.n_params)
    assert local.languages == ()


def test_a_calibration_knows_a_model_better_than_what_is_published(
    engine: LocalEngine, tmp_path: Path
) -> None:
    facts = ModelFacts(languages=("de",), can_call_tools=True)
    own = LocalPolicy(SETTINGS, engine.card, facts=facts, data_dir=tmp_path).local
    assert (own.languages, own.can_call_tools) == (("en",), False)
    other = msgspec.structs.replace(engine.card, size_bytes=engine.card.size_bytes + 1)
    for card in (other, None):
        local = LocalPolicy(SETTINGS, card, facts=facts, data_dir=tmp_path).local
        assert (local.languages, local.can_call_tools) == (("de",), True)
