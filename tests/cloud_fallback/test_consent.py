"""A question to the user is answered once, and without a yes nothing leaves."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from spillover.cloud_fallback.events import ConsentAsked, ExpectedCost
from spillover.cloud_fallback.privacy.consent import MAX_PENDING, Asker, Consents, Planned
from spillover.cloud_fallback.privacy.standing import StandingConsents
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import WriterId
from spillover.runtime.request import GenerationRequest
from tests.waiting import wait_until

LONG_S = 60.0
ANSWER = Asker(answer_id="answer")
PLANNED = Planned(request=GenerationRequest(prompt="Once upon a time"), redactions=0)
FREE = ExpectedCost(prompt_tokens=4, completion_tokens=8, prompt_usd=None, usd=None)


def asked(
    consent_id: str = "q", *, provider: str = "cloudy", timeout_s: float = LONG_S
) -> ConsentAsked:
    return ConsentAsked(
        id=consent_id,
        reason="queue",
        target=WriterId(origin="cloud", model="m", provider=provider),
        timeout_s=timeout_s,
        n_messages=3,
        redactions=0,
        cost=FREE,
    )


@pytest.fixture
def consents() -> Generator[Consents]:
    consents = Consents()
    yield consents
    consents.close()


@pytest.fixture
def pool(consents: Consents) -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAX_PENDING) as pool:
        yield pool
        consents.close()


def replied(
    consents: Consents,
    answer_id: str,
    question: ConsentAsked,
    cancellation: Cancellation | None = None,
    conversation: str | None = None,
) -> bool | None:
    """The reply, if it is known already or after asking for it."""
    asker = Asker(answer_id=answer_id, conversation=conversation)
    known = consents.known(asker, question.target.provider or "")
    if known is not None and not consents.is_kept_local(answer_id):
        return known
    with consents.question(asker, question, lambda: PLANNED) as opened:
        return opened.wait(cancellation)


class OpenQuestions:
    """Asks in another thread and waits until the question is open."""

    def __init__(self, consents: Consents, pool: ThreadPoolExecutor) -> None:
        self.consents, self.pool = consents, pool

    def __call__(
        self,
        answer_id: str,
        question: ConsentAsked,
        cancellation: Cancellation | None = None,
        conversation: str | None = None,
    ) -> Future[bool | None]:
        reply = self.pool.submit(
            replied, self.consents, answer_id, question, cancellation, conversation
        )
        wait_until(
            lambda: reply.done() or any(p.asked.id == question.id for p in self.consents.pending())
        )
        assert not reply.done(), reply.result()
        return reply


@pytest.fixture
def ask(consents: Consents, pool: ThreadPoolExecutor) -> OpenQuestions:
    return OpenQuestions(consents, pool)


@pytest.mark.parametrize("granted", [True, False])
def test_the_reply_reaches_the_answer_that_waits(
    consents: Consents, ask: OpenQuestions, granted: bool
) -> None:
    reply = ask("answer", asked())
    assert consents.answer("q", granted) == "accepted"
    assert reply.result(LONG_S) is granted
    assert consents.pending() == []


def test_only_the_first_reply_counts_and_later_ones_are_reported(
    consents: Consents, ask: OpenQuestions
) -> None:
    reply = ask("answer", asked())
    consents.answer("q", False)
    assert consents.answer("q", True) == "already_decided"
    assert reply.result(LONG_S) is False


def test_no_reply_in_time_means_no_and_a_late_one_is_reported(consents: Consents) -> None:
    assert replied(consents, "answer", asked(timeout_s=0.0)) is None
    assert consents.answer("q", True) == "too_late"


def test_a_reply_after_the_wait_is_late_even_if_no_writer_has_continued_yet(
    consents: Consents,
) -> None:
    with consents.question(ANSWER, asked(timeout_s=0.0), lambda: PLANNED) as question:
        assert question.wait() is None
        assert consents.answer("q", True) == "too_late"
        assert question.granted is None


def test_a_reply_after_the_cancellation_is_late_too(consents: Consents) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with consents.question(ANSWER, asked(), lambda: PLANNED) as question:
        assert question.wait(cancellation) is None
        assert consents.answer("q", True) == "too_late"


def test_a_reply_that_comes_before_the_wait_counts(consents: Consents) -> None:
    with consents.question(ANSWER, asked(), lambda: PLANNED) as question:
        assert consents.answer("q", True) == "accepted"
        assert question.wait() is True


def test_a_reply_to_a_question_that_was_never_asked_is_reported(consents: Consents) -> None:
    assert consents.answer("nothing", True) == "unknown"


def test_a_cancelled_answer_stops_waiting_at_once(consents: Consents, ask: OpenQuestions) -> None:
    cancellation = Cancellation()
    reply = ask("answer", asked(), cancellation)
    cancellation.cancel()
    assert reply.result(LONG_S) is None
    assert consents.answer("q", True) == "too_late"


def test_an_answer_cancelled_before_asking_does_not_wait(consents: Consents) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    assert replied(consents, "answer", asked(), cancellation) is None


def test_closing_the_desk_ends_all_waiting_without_a_yes(
    consents: Consents, ask: OpenQuestions
) -> None:
    replies = [ask("answer", asked(f"q{i}")) for i in range(5)]
    consents.close()
    assert [reply.result(LONG_S) for reply in replies] == [None] * 5
    assert replied(consents, "answer", asked("later")) is None


def test_a_full_desk_takes_no_more_questions(consents: Consents, ask: OpenQuestions) -> None:
    for i in range(MAX_PENDING):
        ask("answer", asked(f"q{i}"))
    assert replied(consents, "answer", asked("one more")) is None
    assert len(consents.pending()) == MAX_PENDING


def test_a_question_asked_twice_cannot_take_the_others_reply(
    consents: Consents, ask: OpenQuestions
) -> None:
    reply = ask("mine", asked())
    assert replied(consents, "another's", asked()) is None
    consents.answer("q", True)
    assert reply.result(LONG_S) is True


def test_open_questions_are_listed_by_answer(consents: Consents, ask: OpenQuestions) -> None:
    ask("one", asked("q1"))
    ask("two", asked("q2"))
    assert [p.asked.id for p in consents.pending()] == ["q1", "q2"]
    assert [p.asked.id for p in consents.pending("two")] == ["q2"]


def test_a_remembered_reply_holds_for_this_conversation_and_provider_only(
    consents: Consents, ask: OpenQuestions
) -> None:
    reply = ask("one", asked("q1"), conversation="c")
    consents.answer("q1", True, scope="chat")
    assert reply.result(LONG_S) is True
    assert replied(consents, "two", asked("q2", timeout_s=0), conversation="c") is True
    assert replied(consents, "two", asked("q3", timeout_s=0), conversation="d") is None
    assert replied(consents, "two", asked("q4", timeout_s=0)) is None
    assert (
        replied(consents, "two", asked("q5", provider="rival", timeout_s=0), conversation="c")
        is None
    )
    consents.forget("c")
    assert replied(consents, "two", asked("q6", timeout_s=0), conversation="c") is None


def test_a_reply_for_good_is_kept_where_it_can_be_forgotten(tmp_path: Path) -> None:
    """Its own conversation remembered it as well, and went on handing over."""
    path, asker = tmp_path / "consents.json", Asker(answer_id="one", conversation="c")
    consents = Consents(StandingConsents(path))
    with consents.question(asker, asked("q1"), lambda: PLANNED):
        consents.answer("q1", True, scope="always")
    assert consents.known(asker, "cloudy") is True
    assert StandingConsents(path).forget("cloudy") == 1
    assert consents.known(asker, "cloudy") is None


def test_never_ends_what_was_allowed_for_a_conversation(consents: Consents) -> None:
    mine, other = (Asker(answer_id=name, conversation=name) for name in ("mine", "other"))
    with consents.question(mine, asked("q1"), lambda: PLANNED):
        consents.answer("q1", True, scope="chat")
    with consents.question(other, asked("q2"), lambda: PLANNED):
        consents.answer("q2", False, scope="always")
    assert consents.known(mine, "cloudy") is False


@pytest.mark.parametrize("conversation", [None, ""])
def test_without_a_conversation_nothing_is_remembered(
    consents: Consents, ask: OpenQuestions, conversation: str | None
) -> None:
    reply = ask("one", asked("q1"), conversation=conversation)
    consents.answer("q1", True, scope="chat")
    assert reply.result(LONG_S) is True
    assert replied(consents, "two", asked("q2", timeout_s=0), conversation=conversation) is None
    assert replied(consents, "two", asked("q3", timeout_s=0)) is None


def test_keeping_an_answer_local_refuses_its_question_and_all_later_ones(
    consents: Consents, ask: OpenQuestions
) -> None:
    mine, other = ask("mine", asked("q1")), ask("other", asked("q2"))
    consents.keep_local("mine")
    assert mine.result(LONG_S) is False
    assert consents.answer("q1", True) == "already_decided"
    assert replied(consents, "mine", asked("q3")) is False
    assert consents.is_kept_local("mine")
    consents.answer("q2", True)
    assert other.result(LONG_S) is True


def test_keeping_an_answer_local_beats_a_remembered_yes(
    consents: Consents, ask: OpenQuestions
) -> None:
    ask("one", asked("q1"), conversation="c")
    consents.answer("q1", True, scope="chat")
    consents.keep_local("two")
    assert replied(consents, "two", asked("q2"), conversation="c") is False


def test_keeping_an_answer_local_cancels_its_requests_under_way(consents: Consents) -> None:
    mine, other, done = Cancellation(), Cancellation(), Cancellation()
    with consents.revocable("mine", done):
        pass
    with consents.revocable("mine", mine), consents.revocable("other", other):
        consents.keep_local("mine")
    assert (mine.cancelled, other.cancelled, done.cancelled) == (True, False, False)


def test_a_request_that_begins_after_that_is_cancelled_at_once(consents: Consents) -> None:
    cancellation = Cancellation()
    consents.keep_local("mine")
    with consents.revocable("mine", cancellation):
        assert cancellation.cancelled


def test_a_race_of_many_replies_has_one_winner(
    consents: Consents, ask: OpenQuestions, pool: ThreadPoolExecutor
) -> None:
    reply = ask("answer", asked())
    replies = list(pool.map(lambda i: consents.answer("q", i % 2 == 0), range(20)))
    assert replies.count("accepted") == 1
    assert replies.count("already_decided") == 19
    assert reply.result(LONG_S) is (replies.index("accepted") % 2 == 0)
