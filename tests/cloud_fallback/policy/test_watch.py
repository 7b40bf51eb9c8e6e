"""The watch over one local leg: what triggers, what is held back, what is left alone."""

from __future__ import annotations

import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.sensors import DeviceReading
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch, logprobs_wanted
from spillover.runtime.engine import EngineStatus, SlotState
from spillover.runtime.events import Delta, Queued, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    ResponseFormat,
    Tool,
)
from tests.cloud_fallback.policy.answers import Leg, asked, finished, prose, token, words

READY = EngineStatus(state="ready")
GIGABYTE = 2**30
NO_MEMORY = DeviceReading(memory_total_bytes=8 * GIGABYTE, memory_available_bytes=GIGABYTE // 8)
MEMORY = DeviceReading(memory_total_bytes=8 * GIGABYTE, memory_available_bytes=4 * GIGABYTE)


def code(reason: Reason | None) -> str | None:
    return None if reason is None else reason.code


def test_a_sure_answer_passes_and_nothing_is_held_back() -> None:
    leg = Leg()
    leg.begin()
    assert set(leg.feed(prose(400))) == {"pass"}
    assert leg.watch.finished(finished(n=400)) is None
    assert leg.watch.reason is None


def test_an_unsure_answer_is_held_back_and_handed_over_from_where_doubt_began() -> None:
    leg = Leg()
    leg.begin()
    sure = prose(40)
    verdicts = leg.feed(sure + prose(80, 40, logprob=-6.0))
    assert verdicts[: len(sure)] == ["pass"] * len(sure)
    assert verdicts[-1] == "handoff"
    n_passed = verdicts.count("pass")
    n_held = verdicts.count("hold")
    assert 0 < n_held <= PolicySettings().hold_tokens
    reason = leg.watch.reason
    assert reason is not None
    assert reason.code == "low_confidence"
    assert reason.signals["p_wrong"] >= reason.signals["threshold"]
    sent = sure + prose(80, 40)[: n_passed - len(sure)]
    assert reason.keep_chars == sum(len(delta.text) for delta in sent)


def test_doubt_that_goes_away_releases_the_text() -> None:
    leg = Leg()
    leg.begin()
    verdicts = leg.feed(prose(40) + prose(8, 40, logprob=-4.5) + prose(100, 48))
    assert "hold" in verdicts
    assert "handoff" not in verdicts
    assert verdicts[-1] == "pass"


def test_holding_back_is_bounded_in_time() -> None:
    settings = PolicySettings(hold_s=1.0, p_wrong_enter=0.99, p_wrong_forget=0.2)
    leg = Leg(settings=settings)
    leg.begin()
    verdicts = leg.feed(prose(40) + prose(60, 40, logprob=-2.6), step_s=0.3)
    assert verdicts.count("hold") == 4
    assert verdicts[-1] == "pass"


def test_unknown_confidence_is_not_low() -> None:
    leg = Leg()
    leg.begin()
    without = [Delta(text=d.text, token_ids=d.token_ids) for d in prose(50)]
    broken = prose(50, 50, logprob=float("nan"))
    assert set(leg.feed(without + broken)) == {"pass"}


def test_no_soft_handoff_before_the_least_tokens_nor_in_the_tail() -> None:
    leg = Leg(asked(max_tokens=100))
    leg.begin()
    assert "handoff" not in leg.feed(prose(11, logprob=-9.0))
    leg = Leg(asked(max_tokens=100))
    leg.begin()
    assert "handoff" not in leg.feed(prose(90) + prose(10, 90, logprob=-25.0))


def test_the_queue_may_last_only_so_long() -> None:
    leg = Leg()
    leg.watch.see(Queued(position=3, n_prompt_tokens=5))
    limit = leg.watch.deadline()
    assert limit == leg.clock.now + PolicySettings().queue_s
    leg.clock.now = limit - 0.1
    assert leg.watch.on_silence() is None
    leg.clock.now = limit
    assert code(leg.watch.on_silence()) == "queue"
    assert leg.watch.deadline() is None


def test_the_first_token_and_every_other_may_last_only_so_long() -> None:
    settings = PolicySettings()
    leg = Leg()
    leg.begin()
    assert leg.watch.deadline() == leg.clock.now + settings.first_token_s
    leg.feed(prose(3))
    assert leg.watch.deadline() == leg.clock.now + settings.stall_s
    leg.clock.pass_s(settings.stall_s)
    assert code(leg.watch.on_silence()) == "slow"


def test_an_answer_that_lost_its_kv_cells_waits_only_so_long() -> None:
    leg = Leg()
    leg.begin()
    leg.feed(prose(5))
    leg.watch.see(Queued(position=1, n_prompt_tokens=5))
    leg.clock.pass_s(PolicySettings().stall_s)
    assert code(leg.watch.on_silence()) == "kv_full"


def test_slow_decoding_is_handed_over() -> None:
    leg = Leg()
    leg.begin()
    verdicts = leg.feed(prose(200), step_s=1.0)
    assert verdicts[-1] == "handoff"
    assert code(leg.watch.reason) == "slow"
    assert len(verdicts) < 60


def test_policies_that_are_switched_off_never_trigger() -> None:
    leg = Leg(settings=PolicySettings(switched_off=("slow", "low_confidence", "memory", "user")))
    leg.begin()
    assert set(leg.feed(prose(200, logprob=-9.0), step_s=1.0)) == {"pass"}
    assert leg.watch.deadline() is None
    for _ in range(5):
        leg.watch.sense(NO_MEMORY)
    leg.watch.ask()
    assert leg.triggers == []


def test_sensors_trigger_after_two_bad_readings_and_only_once() -> None:
    leg = Leg()
    leg.begin()
    leg.watch.sense(NO_MEMORY)
    leg.watch.sense(MEMORY)
    leg.watch.sense(NO_MEMORY)
    assert leg.triggers == []
    leg.watch.sense(NO_MEMORY)
    leg.watch.sense(NO_MEMORY)
    leg.watch.ask()
    assert [reason.code for reason in leg.triggers] == ["memory"]
    assert leg.watch.see(token(" more")) == "handoff"


def test_the_end_of_an_answer_overrules_a_trigger_that_came_just_before() -> None:
    leg = Leg()
    leg.begin()
    leg.feed(prose(20))
    leg.watch.ask()
    assert leg.watch.finished(finished("stop")) is None
    assert leg.watch.reason is None
    leg.watch.ask()
    assert len(leg.triggers) == 1


def test_a_cancelled_leg_ends_with_the_reason_it_was_cancelled_for() -> None:
    leg = Leg()
    leg.begin()
    leg.feed(prose(20))
    leg.watch.ask()
    assert code(leg.watch.finished(finished("cancelled"))) == "user"


def test_an_end_that_leaves_the_answer_incomplete_is_a_reason() -> None:
    empty = Leg()
    empty.begin()
    empty.feed([token(" \n")])
    assert code(empty.watch.finished(finished(n=1))) == "empty"
    thought = Leg()
    thought.begin()
    thought.feed([ReasoningDelta(text="Let me see.", token_ids=(1, 2, 3))])
    assert code(thought.watch.finished(finished(n=3))) == "no_answer"
    answered = Leg()
    answered.begin()
    answered.feed([ReasoningDelta(text="Let me see.", token_ids=(1, 2, 3))])
    answered.feed(prose(20))
    assert answered.watch.finished(finished(n=23)) is None
    cut_off = Leg(asked(max_tokens=3))
    cut_off.begin()
    cut_off.feed([ReasoningDelta(text="Let me see.", token_ids=(1, 2, 3))])
    assert cut_off.watch.finished(finished("length", n=3)) is None
    cut = Leg(asked(max_tokens=100))
    cut.begin()
    cut.feed(prose(20))
    assert code(cut.watch.finished(finished("length", n=20))) == "context"
    full = Leg(asked(max_tokens=20))
    full.begin()
    full.feed(prose(20))
    assert full.watch.finished(finished("length", n=20)) is None
    open_ = Leg(asked(response_format=JsonObject()))
    open_.begin()
    open_.feed(words('{"a": 1'))
    assert code(open_.watch.finished(finished(n=3))) == "schema"


def test_a_stop_string_or_a_raw_prompt_may_leave_nothing() -> None:
    stopped = Leg()
    stopped.begin()
    end = msgspec.structs.replace(finished(n=1), stop="END")
    assert stopped.watch.finished(end) is None
    raw = Leg(GenerationRequest(prompt="Once upon a time"))
    raw.begin()
    raw.feed(words("I don't know. I cannot say."))
    assert raw.watch.finished(finished(n=6)) is None


def test_half_a_tool_call_is_not_an_end() -> None:
    for arguments, expected in (('{"city": "Li', "schema"), ('{"city": "Lima"}', None)):
        leg = Leg()
        leg.begin()
        leg.watch.see(ToolCallDelta(index=0, id="a", name="f", arguments=arguments))
        assert code(leg.watch.finished(finished("tool_calls"))) == expected


def test_a_leg_that_continues_an_answer_knows_how_it_began() -> None:
    """It may end at once, is in the middle of a document, and is nobody's refusal."""
    begun = (
        Message(role="user", content="Name three towns as JSON, please."),
        Message(role="assistant", content='["Lima", '),
    )
    response_format = JsonSchema(schema={"type": "array", "items": {"type": "string"}})
    request = GenerationRequest(
        messages=begun, continue_final_message=True, response_format=response_format
    )
    leg = Leg(request)
    leg.begin()
    assert leg.feed([token(t) for t in ('"Oslo"', "]")]) == ["pass"] * 2
    assert leg.watch.finished(finished(n=2)) is None
    broken = Leg(request)
    broken.begin()
    broken.feed([token(t) for t in ('"Oslo"', "]", " and")])
    assert broken.watch.reason is not None
    assert broken.watch.reason.keep_chars == len('"Oslo"] ')
    nothing = Leg(msgspec.structs.replace(request, response_format=None))
    nothing.begin()
    nothing.feed(words(" I don't know more of them."))
    assert nothing.watch.reason is None
    assert nothing.watch.finished(finished(n=0)) is None


def test_reasoning_is_not_judged_by_its_confidence() -> None:
    leg = Leg()
    leg.begin()
    reasoning = [
        ReasoningDelta(text=d.text, token_ids=d.token_ids, logprobs=d.logprobs)
        for d in prose(100, logprob=-9.0)
    ]
    assert set(leg.feed(reasoning)) == {"pass"}
    assert leg.feed(prose(60, 100, logprob=-9.0))[-1] == "handoff"


@pytest.mark.parametrize(
    ("status", "n_prompt", "local", "expected"),
    [
        (EngineStatus(state="restarting", n_restarts=2), 10, LocalModel(), "crash"),
        (READY, 1_000, LocalModel(n_ctx=1_024), "context"),
        (READY, 900, LocalModel(n_ctx=1_024), None),
        (EngineStatus(state="ready", n_queued=16), 10, LocalModel(), "queue"),
        (
            EngineStatus(
                state="ready", n_queued=1, slots=(SlotState(id=0, state="decode", n_tokens=900),)
            ),
            200,
            LocalModel(n_kv=1_024),
            "kv_full",
        ),
        (READY, None, LocalModel(n_ctx=16, n_kv=16), None),
    ],
)
def test_requests_that_cannot_work_locally_do_not_begin_locally(
    status: EngineStatus, n_prompt: int, local: LocalModel, expected: str | None
) -> None:
    assert code(Leg(local=local).before(status, n_prompt)) == expected


def test_an_answer_of_the_background_may_take_long() -> None:
    background = msgspec.structs.replace(asked(), priority="background")
    busy, failed = EngineStatus(state="ready", n_queued=16), EngineStatus(state="failed")
    assert code(Leg(background).before(failed, 10)) == "crash"
    for request, expected in ((background, None), (asked(), "slow")):
        leg = Leg(request, PolicySettings(decode_floor=5.0))
        leg.begin()
        leg.feed(prose(200), step_s=1.0)
        assert code(leg.watch.reason) == expected
    assert Leg(background).before(busy, 10) is None


@pytest.mark.parametrize(
    "trouble",
    [
        DeviceReading(memory_total_bytes=1_000, memory_available_bytes=10),
        DeviceReading(temperature_c=99.0),
        DeviceReading(on_battery=True, battery_share=0.02),
    ],
)
def test_an_answer_of_the_background_stays_on_a_device_in_trouble(trouble: DeviceReading) -> None:
    """The sensors used to hand it over, as if somebody waited for it."""
    background = msgspec.structs.replace(asked(), priority="background")
    for request, expected in ((background, False), (asked(), True)):
        assert (Leg(request).before(READY, 10, trouble) is not None) == expected
        leg = Leg(request)
        leg.begin()
        for _ in range(4):
            leg.watch.sense(trouble)
        assert bool(leg.triggers) == expected


def test_a_prompt_without_room_is_handed_over_when_its_length_is_known() -> None:
    """Nobody counts tokens before the engine does."""
    for n_prompt, expected in ((1_000, "context"), (900, None)):
        leg = Leg(local=LocalModel(n_ctx=1_024))
        assert leg.before(READY, None) is None
        leg.watch.see(Queued(position=0, n_prompt_tokens=n_prompt))
        assert code(leg.watch.reason) == expected
    busy = EngineStatus(
        state="ready", n_queued=1, slots=(SlotState(id=0, state="decode", n_tokens=900),)
    )
    leg = Leg(local=LocalModel(n_kv=1_024))
    assert leg.before(busy, None) is None
    assert leg.watch.see(Queued(position=1, n_prompt_tokens=200)) == "handoff"
    assert code(leg.watch.reason) == "kv_full"


def test_no_wait_is_noticed_late_because_another_one_may_be_longer() -> None:
    settings = PolicySettings(queue_s=20.0, first_token_s=2.0)
    leg = Leg(settings=settings)
    start = leg.clock.now
    leg.begin()
    assert leg.watch.next_look() == start + 2.0
    leg.clock.pass_s(2.0)
    assert code(leg.watch.on_silence()) == "ttft"
    assert leg.watch.next_look() is None


def test_a_wait_that_does_not_count_does_not_hide_the_next_one() -> None:
    leg = Leg(settings=PolicySettings(switched_off=("queue",)))
    assert leg.watch.deadline() is None
    assert leg.watch.next_look() is not None
    nothing = Leg(settings=PolicySettings(switched_off=("queue", "ttft", "slow", "kv_full")))
    assert nothing.watch.next_look() is None


def test_after_a_reason_that_can_wait_only_reasons_count_that_cannot() -> None:
    leg = Leg()
    leg.begin()
    leg.watch.sense(NO_MEMORY)
    leg.watch.sense(NO_MEMORY)
    assert code(leg.watch.reason) == "memory"
    leg.watch.defer()
    leg.watch.sense(NO_MEMORY)
    leg.clock.pass_s(PolicySettings().stall_s + 1)
    assert leg.watch.on_silence() is None
    assert set(leg.feed(prose(60, logprob=-9.0))) == {"pass"}
    assert leg.feed(words(" again and again" * 40))[-1] == "handoff"
    assert code(leg.watch.reason) == "repetition"
    assert [reason.code for reason in leg.triggers] == ["memory"]


def test_tools_the_model_cannot_call_do_not_begin_here() -> None:
    request = asked(tools=(Tool(name="look_up"),))
    cannot = LocalModel(can_call_tools=False)
    assert code(Leg(request, local=cannot).before()) == "tools"
    assert Leg(request, local=LocalModel()).before() is None
    unasked = asked(tools=(Tool(name="look_up"),), tool_choice="none")
    assert Leg(unasked, local=cannot).before() is None


def test_the_user_and_the_device_are_asked_before_the_start() -> None:
    wanted = Leg()
    wanted.watch.ask()
    assert code(wanted.before()) == "user"
    assert code(Leg().before(READY, 5, NO_MEMORY)) == "memory"
    assert Leg().before(READY, 5, MEMORY) is None


def test_many_threads_give_one_trigger() -> None:
    triggers: list[Reason] = []
    watch = Watch(PolicySettings(), asked(), clock=lambda: 0.0, on_trigger=triggers.append)
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        for _ in range(50):
            watch.ask()
            watch.sense(NO_MEMORY)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(triggers) == 1


def test_logprobs_are_asked_for_only_when_a_policy_needs_them() -> None:
    assert logprobs_wanted(asked(), PolicySettings()) == 2
    assert logprobs_wanted(asked(logprobs=5), PolicySettings()) == 5
    off = PolicySettings(switched_off=("low_confidence",))
    assert logprobs_wanted(asked(), off) is None


@given(
    texts=st.lists(
        st.text(max_size=12) | st.sampled_from(["```", "<|", "{", "I ", "\n"]), max_size=80
    ),
    logprobs=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=80),
    response_format=st.sampled_from([None, JsonObject(), JsonSchema(schema={"type": "array"})]),
)
def test_any_events_get_a_verdict_that_keeps_the_text_so_far(
    texts: list[str], logprobs: list[float], response_format: ResponseFormat | None
) -> None:
    leg = Leg(asked(response_format=response_format))
    leg.begin()
    deltas = [token(t, logprobs[i % len(logprobs)]) for i, t in enumerate(texts)]
    verdicts = leg.feed(deltas)
    assert set(verdicts) <= {"pass", "hold", "handoff"}
    assert verdicts.count("handoff") <= 1
    reason = leg.watch.finished(finished("cancelled" if "handoff" in verdicts else "stop"))
    if reason is not None and reason.keep_chars is not None:
        assert 0 <= reason.keep_chars <= sum(len(t) for t in texts)
