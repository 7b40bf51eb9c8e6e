"""What a provider refuses once is not asked of it again."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback import errors
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import text_of
from tests.cloud_fallback.cloud_answers import PARTIAL, MakeEngine, answer, failure
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def test_a_refused_prefill_is_remembered(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine("anthropic")
    assert engine.may_prefill()
    fake.script(Act(takes_prefill=False))
    turns = (Message(role="user", content="A story."), Message(role="assistant", content=PARTIAL))
    request = GenerationRequest(messages=turns, continue_final_message=True)
    with pytest.raises(errors.ProviderRefused) as caught:
        list(engine.stream(request))
    assert caught.value.no_prefill
    assert not engine.may_prefill()
    assert len(fake.requests) == 1


def test_a_field_that_the_model_does_not_take_is_left_out(
    fake: Fake, make_engine: MakeEngine
) -> None:
    told = (
        '{"error": {"message": "Unsupported value: \'temperature\' does not support 0 with this '
        'model.", "type": "invalid_request_error", "param": "temperature", '
        '"code": "unsupported_value"}}'
    )
    fake.script(Act(status=400, body=told), Act())
    engine = make_engine()
    assert text_of(answer(engine)) == "Hello from the cloud."
    assert ["temperature" in r.json() for r in fake.requests] == [True, False]
    answer(engine)
    assert len(fake.requests) == 3


def test_a_field_that_is_refused_again_is_not_sent_forever(
    fake: Fake, make_engine: MakeEngine
) -> None:
    told = '{"error": {"param": "temperature", "code": "unsupported_value"}}'
    fake.script(Act(status=400, body=told))
    failure(make_engine())
    assert len(fake.requests) == 2
