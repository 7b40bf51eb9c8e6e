"""Connections are kept, replaced and closed."""

from __future__ import annotations

import contextlib
import threading

import psutil

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.client import Http
from tests.answers import ask, text_of
from tests.cloud_fallback.cloud_answers import TEXT, MakeEngine, answer, every_dialect, failure
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def test_a_warm_connection_carries_the_first_request(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    assert (fake.record.accepted, fake.requests) == (1, [])
    answer(engine)
    assert fake.record.accepted == 1


@every_dialect
def test_a_connection_is_kept_for_the_next_request(
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    engine = make_engine(dialect)
    for _ in range(3):
        answer(engine)
    assert (fake.record.accepted, len(fake.requests)) == (1, 3)


def test_a_connection_is_kept_after_a_refusal(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    fake.script(Act(refusal="rate_limited"), Act())
    failure(engine)
    answer(engine)
    assert fake.record.accepted == 1


def test_warming_twice_opens_one_connection(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    engine.warm()
    answer(engine)
    engine.warm()
    assert fake.record.accepted == 1


def test_a_connection_that_died_meanwhile_is_replaced(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    answer(engine)
    fake.close_idle()
    fake.wait_for(open=0)
    assert text_of(answer(engine)) == "Hello from the cloud."
    engine.warm()
    fake.close_idle()
    fake.wait_for(open=0)
    assert text_of(answer(engine)) == "Hello from the cloud."


def test_a_connection_that_dies_under_a_request_is_replaced_once_unheard(
    fake: Fake, make_engine: MakeEngine
) -> None:
    """A server may close an idle connection just when the request is on its way."""
    engine = make_engine()
    answer(engine)
    fake.script(Act(before_response="reset"), Act())
    assert text_of(answer(engine)) == "Hello from the cloud."
    assert (fake.record.accepted, len(fake.requests)) == (2, 3)


def test_warming_an_address_where_nobody_listens_is_silent(
    fake: Fake, make_engine: MakeEngine
) -> None:
    fake.refuse_connections()
    make_engine().warm()


def test_twenty_answers_at_once_come_whole(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text=TEXT, chunk_chars=3))
    engine = make_engine()
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(text_of(engine.stream(ask()))))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [TEXT] * 20


def test_answers_leave_no_socket_and_no_thread_behind(
    fake: Fake, make_engine: MakeEngine, http: Http
) -> None:
    engine = make_engine(total_timeout_s=20)
    answer(engine)
    n_threads, n_files = threading.active_count(), psutil.Process().num_fds()
    for act in (Act(refusal="overloaded"), Act(cut_after_chunks=1, cut="reset"), Act()):
        fake.script(act)
        for _ in range(10):
            with contextlib.suppress(ProviderError):
                next(stream := engine.stream(ask()))
                stream.close()
    fake.wait_for(open=0)
    answer(engine)
    assert threading.active_count() == n_threads
    assert psutil.Process().num_fds() == n_files
