"""A question to the user is answered once, and without a yes nothing leaves."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from spillover.cloud_fallback.events import ConsentAsked
from spillover.cloud_fallback.privacy.consent import MAX_PENDING, ConsentDesk
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.events import WriterId

LONG_S = 60.0


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
    )


@pytest.fixture
def desk() -> Generator[ConsentDesk]:
    desk = ConsentDesk()
    yield desk
    desk.close()


@pytest.fixture
def pool(desk: ConsentDesk) -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAX_PENDING) as pool:
        yield pool
        desk.close()


class Asker:
    """Asks in another thread and waits until the question lies on the desk."""

    def __init__(self, desk: ConsentDesk, pool: ThreadPoolExecutor) -> None:
        self.desk, self.pool = desk, pool

    def __call__(
        self,
        answer_id: str,
        question: ConsentAsked,
        cancellation: Cancellation | None = None,
        conversation: str | None = None,
    ) -> Future[bool | None]:
        reply = self.pool.submit(self.desk.ask, answer_id, question, cancellation, conversation)
        while not any(p.asked.id == question.id for p in self.desk.pending()):
            assert not reply.done(), reply.result()
        return reply


@pytest.fixture
def ask(desk: ConsentDesk, pool: ThreadPoolExecutor) -> Asker:
    return Asker(desk, pool)


@pytest.mark.parametrize("granted", [True, False])
def test_the_reply_reaches_the_answer_that_waits(
    desk: ConsentDesk, ask: Asker, granted: bool
) -> None:
    reply = ask("answer", asked())
    assert desk.answer("q", granted) == "accepted"
    assert reply.result(LONG_S) is granted
    assert desk.pending() == []


def test_only_the_first_reply_counts_and_later_ones_are_told(desk: ConsentDesk, ask: Asker) -> None:
    reply = ask("answer", asked())
    desk.answer("q", False)
    assert desk.answer("q", True) == "already_decided"
    assert reply.result(LONG_S) is False


def test_no_reply_in_time_is_no_yes_and_a_late_one_is_told(desk: ConsentDesk) -> None:
    assert desk.ask("answer", asked(timeout_s=0.0)) is None
    assert desk.answer("q", True) == "already_decided"


def test_a_reply_after_the_wait_is_late_even_if_nobody_has_gone_on_yet(desk: ConsentDesk) -> None:
    with desk.question("answer", asked(timeout_s=0.0)) as question:
        assert question.wait() is None
        assert desk.answer("q", True) == "already_decided"
        assert question.granted is None


def test_a_reply_after_the_cancellation_is_late_too(desk: ConsentDesk) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with desk.question("answer", asked()) as question:
        assert question.wait(cancellation) is None
        assert desk.answer("q", True) == "already_decided"


def test_a_reply_that_is_there_before_anybody_waits_counts(desk: ConsentDesk) -> None:
    with desk.question("answer", asked()) as question:
        assert desk.answer("q", True) == "accepted"
        assert question.wait() is True


def test_a_reply_to_a_question_that_was_never_asked_is_told(desk: ConsentDesk) -> None:
    assert desk.answer("nothing", True) == "unknown"


def test_a_cancelled_answer_stops_waiting_at_once(desk: ConsentDesk, ask: Asker) -> None:
    cancellation = Cancellation()
    reply = ask("answer", asked(), cancellation)
    cancellation.cancel()
    assert reply.result(LONG_S) is None
    assert desk.answer("q", True) == "already_decided"


def test_an_answer_cancelled_before_asking_does_not_wait(desk: ConsentDesk) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    assert desk.ask("answer", asked(), cancellation) is None


def test_closing_the_desk_ends_all_waiting_without_a_yes(desk: ConsentDesk, ask: Asker) -> None:
    replies = [ask("answer", asked(f"q{i}")) for i in range(5)]
    desk.close()
    assert [reply.result(LONG_S) for reply in replies] == [None] * 5
    assert desk.ask("answer", asked("later")) is None


def test_a_full_desk_takes_no_more_questions(desk: ConsentDesk, ask: Asker) -> None:
    for i in range(MAX_PENDING):
        ask("answer", asked(f"q{i}"))
    assert desk.ask("answer", asked("one more")) is None
    assert len(desk.pending()) == MAX_PENDING


def test_a_question_asked_twice_cannot_take_the_others_reply(desk: ConsentDesk, ask: Asker) -> None:
    reply = ask("mine", asked())
    assert desk.ask("another's", asked()) is None
    desk.answer("q", True)
    assert reply.result(LONG_S) is True


def test_open_questions_are_listed_by_answer(desk: ConsentDesk, ask: Asker) -> None:
    ask("one", asked("q1"))
    ask("two", asked("q2"))
    assert [p.asked.id for p in desk.pending()] == ["q1", "q2"]
    assert [p.asked.id for p in desk.pending("two")] == ["q2"]


def test_a_remembered_reply_holds_for_this_conversation_and_provider_only(
    desk: ConsentDesk, ask: Asker
) -> None:
    reply = ask("one", asked("q1"), conversation="c")
    desk.answer("q1", True, remember=True)
    assert reply.result(LONG_S) is True
    assert desk.ask("two", asked("q2", timeout_s=0), conversation="c") is True
    assert desk.ask("two", asked("q3", timeout_s=0), conversation="d") is None
    assert desk.ask("two", asked("q4", timeout_s=0)) is None
    assert desk.ask("two", asked("q5", provider="rival", timeout_s=0), conversation="c") is None
    desk.forget("c")
    assert desk.ask("two", asked("q6", timeout_s=0), conversation="c") is None


@pytest.mark.parametrize("conversation", [None, ""])
def test_without_a_conversation_nothing_is_remembered(
    desk: ConsentDesk, ask: Asker, conversation: str | None
) -> None:
    reply = ask("one", asked("q1"), conversation=conversation)
    desk.answer("q1", True, remember=True)
    assert reply.result(LONG_S) is True
    assert desk.ask("two", asked("q2", timeout_s=0), conversation=conversation) is None
    assert desk.ask("two", asked("q3", timeout_s=0)) is None


def test_keeping_an_answer_local_refuses_its_question_and_all_later_ones(
    desk: ConsentDesk, ask: Asker
) -> None:
    mine, other = ask("mine", asked("q1")), ask("other", asked("q2"))
    desk.keep_local("mine")
    assert mine.result(LONG_S) is False
    assert desk.answer("q1", True) == "already_decided"
    assert desk.ask("mine", asked("q3")) is False
    assert desk.is_kept_local("mine")
    desk.answer("q2", True)
    assert other.result(LONG_S) is True


def test_keeping_an_answer_local_beats_a_remembered_yes(desk: ConsentDesk, ask: Asker) -> None:
    ask("one", asked("q1"), conversation="c")
    desk.answer("q1", True, remember=True)
    desk.keep_local("two")
    assert desk.ask("two", asked("q2"), conversation="c") is False


def test_keeping_an_answer_local_cancels_its_requests_under_way(desk: ConsentDesk) -> None:
    mine, other, done = Cancellation(), Cancellation(), Cancellation()
    with desk.leg("mine", done):
        pass
    with desk.leg("mine", mine), desk.leg("other", other):
        desk.keep_local("mine")
    assert (mine.cancelled, other.cancelled, done.cancelled) == (True, False, False)


def test_a_request_that_begins_after_that_is_cancelled_at_once(desk: ConsentDesk) -> None:
    cancellation = Cancellation()
    desk.keep_local("mine")
    with desk.leg("mine", cancellation):
        assert cancellation.cancelled


def test_a_race_of_many_replies_has_one_winner(
    desk: ConsentDesk, ask: Asker, pool: ThreadPoolExecutor
) -> None:
    reply = ask("answer", asked())
    replies = list(pool.map(lambda i: desk.answer("q", i % 2 == 0), range(20)))
    assert replies.count("accepted") == 1
    assert replies.count("already_decided") == 19
    assert reply.result(LONG_S) is (replies.index("accepted") % 2 == 0)
