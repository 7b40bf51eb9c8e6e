"""The device, the queue or the clock is the reason, or who writes breaks down."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import psutil

from tests.edge_server.conftest import Server
from tests.edge_server.handoff_reasons.place import (
    CALM,
    LONG,
    PATIENT,
    MakePlace,
    check,
    said,
    script,
)
from tests.edge_server.routed import Answer, follow, hand_over, once
from tests.fakes.fake import Fake
from tests.fakes.script import Act


def test_a_device_that_gets_into_trouble_hands_a_running_answer_over(
    make_place: MakePlace,
) -> None:
    place = make_place(f"# thermal\n{CALM}")  # whose sensors nobody has asked yet
    script(place)
    trouble = once(lambda a: len(a.text) >= 40, lambda _: place.feels(celsius=93.0))
    answer = follow(place.server, trouble, **LONG)
    signals: dict[str, float | None] = {"temperature_c": 93.0, "temperature_high_c": 90.0}
    check(place, answer, "thermal", began=True, signals=signals)


def test_a_processor_that_slows_itself_down(make_place: MakePlace) -> None:
    """The worker is stopped most of the time, as if its clock ran slower."""
    place = make_place(f"# throttled\n{PATIENT}")
    script(place)
    (worker,) = psutil.Process(place.server.process.pid).children()
    over = threading.Event()

    def slow_down() -> None:
        while not over.wait(0.004):
            worker.suspend()
            over.wait(0.1)
            worker.resume()

    thread = threading.Thread(target=slow_down)

    def trouble(_: Answer) -> None:
        thread.start()
        place.feels(mhz=500.0)

    try:
        answer = follow(place.server, once(lambda a: len(a.text) >= 160, trouble), **LONG)
    finally:
        over.set()
        thread.join()
    check(
        place,
        answer,
        "throttled",
        began=True,
        signals={"tokens_per_s": None, "best_tokens_per_s": None},
    )


def test_a_full_context_continues_in_the_cloud(make_place: MakePlace) -> None:
    place = make_place(PATIENT)
    script(place)
    answer = follow(place.server, ignore_eos=True, max_tokens=None)
    check(place, answer, "context", began=True, signals={"n_tokens": 1024})


def test_a_slow_first_token(make_place: MakePlace) -> None:
    place = make_place("[policy]\nfirst_token_s = 0.001\n")
    script(place)
    story = said("Ruby the fox saw a bird. " * 100)
    answer = follow(place.server, messages=story)
    check(place, answer, "ttft", began=False, signals={"waited_s": None, "limit_s": 0.001})


def test_slow_decoding(make_place: MakePlace) -> None:
    place = make_place(f"{CALM}".replace("sensor_dwell", "decode_floor = 10000\nsensor_dwell"))
    script(place)
    answer = follow(place.server, **LONG)
    check(place, answer, "slow", began=True, signals={"decode_floor": 10_000})


def running(server: Server, n: int, *, n_chunks: int = 8) -> list[threading.Thread]:
    """*n* long local answers, once each has sent *n_chunks* chunks."""
    begun = threading.Semaphore(0)

    def write() -> None:
        see = once(lambda a: a.n_chunks >= n_chunks, lambda _: begun.release())
        follow(server, see, **LONG, return_progress=True, spillover={"only": "local_only"})

    threads = [threading.Thread(target=write) for _ in range(n)]
    for thread in threads:
        thread.start()
    for _ in range(n):
        assert begun.acquire(timeout=20)
    return threads


def test_a_queue_that_is_too_long_or_too_slow(make_place: MakePlace) -> None:
    tables = CALM.replace("sensor_dwell", "queue_s = 0.05\nqueue_length = 1\nsensor_dwell")
    place = make_place(tables, "n_parallel = 1\n")
    script(place)
    threads = running(place.server, 1)
    threads += running(place.server, 1, n_chunks=2)  # is told that it waits
    too_long = follow(place.server)
    check(place, too_long, "queue", began=False, signals={"n_queued": 1, "queue_length": 1})
    for thread in threads:
        thread.join()
    (thread,) = running(place.server, 1)
    too_slow = follow(place.server)
    check(place, too_slow, "queue", began=False, signals={"waited_s": None, "limit_s": 0.05})
    thread.join()


def test_a_full_kv_cache(make_place: MakePlace) -> None:
    """Three long answers share the cells of one: the youngest is preempted, and waits briefly."""
    tables = PATIENT.replace('"repetition"', '"repetition", "slow"')
    tables = tables.replace("sensor_dwell", "stall_s = 0.02\nsensor_dwell")
    place = make_place(tables, "n_parallel = 3\nn_kv = 1024\nn_ctx = 1000\n")
    script(place)
    threads = running(place.server, 2)
    answer = follow(place.server, **LONG)
    for thread in threads:
        thread.join()
    check(place, answer, "kv_full", began=True, signals={"limit_s": 0.02})


def test_a_killed_worker(make_place: MakePlace) -> None:
    place = make_place(f"# crash\n{CALM}", "max_restarts = 0\n")
    script(place)

    def kill(_: Answer) -> None:
        for child in psutil.Process(place.server.process.pid).children():
            os.kill(child.pid, signal.SIGKILL)

    answer = follow(place.server, once(lambda a: len(a.text) > 60, kill), **LONG)
    check(place, answer, "crash", began=True)
    later = follow(place.server)
    check(place, later, "crash", began=False, signals={"n_restarts": None})


def go_on(fake: Fake) -> None:
    """Release the answer that holds, or will soon."""
    fake.wait_for(holding=1)
    fake.release()


def in_turn(*steps: Callable[[Answer], None]) -> Callable[[Answer], None]:
    def see(answer: Answer) -> None:
        for step in steps:
            step(answer)

    return see


def test_a_provider_that_breaks_off_gives_the_answer_back(make_place: MakePlace) -> None:
    place = make_place(f"# back\n{CALM}")
    half = " Then a cloud came by and it rained on all of them" * 2
    for reason, act in (
        ("provider", Act(rest=half, hold_after_chunks=21, no_terminal=True)),
        ("network", Act(rest=half, hold_after_chunks=21, cut_after_chunks=22, cut="reset")),
    ):
        place.fake.script(act)
        # A reset takes along what has not been received yet.
        received = once(lambda answer: "Then a cloud" in answer.text, lambda _: go_on(place.fake))
        answer = follow(place.server, in_turn(hand_over(place.server), received), **LONG)
        assert answer.reasons == ["user", reason]
        there, back = answer.of("handoff")
        assert (back["from"], back["to"]) == (there["to"], there["from"])
        assert [e["seam"] for e in answer.of("seam")] == ["anchor", "prefill"]
        assert "Then a cloud" in answer.text
        assert [leg["origin"] for leg in answer.usage["by_leg"]] == ["local", "cloud", "local"]
        assert answer.finish[0] in ("stop", "length")
        assert answer.is_done
