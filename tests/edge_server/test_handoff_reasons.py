"""Every reason for a handoff, made to happen in a real server, as a client sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import psutil
import pytest
from msgspec import Struct

from spillover.cloud_fallback.policy.reason import (
    CapacityCode,
    PromptCode,
    QualityCode,
)
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from tests.edge_server.conftest import Server
from tests.edge_server.routed import Answer, follow, hand_over, once, routed_server
from tests.fakes.fake import Fake
from tests.fakes.script import Act

REST = " Then a cloud came by and finished the story. The end."
WHOLE = "A tale of the cloud's own."

SENSORS = '''
"""The device's sensors, as the system's files tell them: what a file of the test says. Their thread
waits for that file, so that a test says when the next reading comes."""
import json, os, threading, time
from pathlib import PurePosixPath
import psutil
from spillover.runtime.machine.system_files import SystemFiles

FILE = os.environ["READING"]
CALM = {"celsius": 40.0, "charge": 80, "plugged": True, "free": 0.5, "mhz": 2000.0}
MEMORY_KB = 8 << 20

def reading():
    if threading.current_thread().name == "sensors":
        until = time.monotonic() + 20
        while not os.path.exists(FILE) and time.monotonic() < until:
            time.sleep(0.002)
    try:
        with open(FILE) as file:
            return CALM | json.load(file)
    except (OSError, ValueError):
        return CALM

def files():
    now = reading()
    hwmon, power = "sys/class/hwmon/hwmon0", "sys/class/power_supply"
    clock = "sys/devices/system/cpu/cpu0/cpufreq"
    return {
        f"{hwmon}/name": "coretemp",
        f"{hwmon}/temp1_input": str(int(now["celsius"] * 1000)),
        f"{hwmon}/temp1_max": "90000",
        f"{power}/BAT0/type": "Battery",
        f"{power}/BAT0/capacity": str(now["charge"]),
        f"{power}/AC/type": "Mains",
        f"{power}/AC/online": str(int(now["plugged"])),
        f"{clock}/scaling_cur_freq": str(int(now["mhz"] * 1000)),
        f"{clock}/cpuinfo_max_freq": "2000000",
        "proc/meminfo": f"MemTotal: {MEMORY_KB} kB\\n"
        f"MemAvailable: {int(now['free'] * MEMORY_KB)} kB",
    }

def paths():
    for name in files():
        yield name
        yield from map(str, PurePosixPath(name).parents)

read = SystemFiles.text
SystemFiles.text = lambda self, path: files().get(path) or read(self, path)
SystemFiles.matching = lambda self, pattern: sorted(
    {path for path in paths() if PurePosixPath(path).match(pattern)}
)
psutil.cpu_percent = lambda interval=None: 90.0
'''

CALM = """
[policy]
switched_off = ["low_confidence"]
local_tools = false
local_languages = ["en"]
sensor_dwell = 1
[[policy.rules]]
name = "clouds"
words = ["cumulus"]
[[policy.rules]]
name = "contracts"
pattern = 'C-\\d{6}'
"""
PATIENT = CALM.replace('["low_confidence"]', '["low_confidence", "repetition"]')
"""For answers that are not let end."""
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


def said(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def token_ids() -> Callable[[str], list[int]]:
    """The token ids of a text."""
    with LocalEngine(default_model().path) as engine:
        engine.wait_ready(60)
        known = {
            text: list(engine.tokenize(text, add_special=False, parse_special=False))
            for text in ("The end [INST]", "а", " fox", " bird")  # noqa: RUF001  # Cyrillic
        }
    return known.__getitem__


class Place(Struct):
    """A server, its one provider and its device."""

    server: Server
    fake: Fake
    reading: Path

    def feels(self, **reading: Any) -> None:
        """Set what the sensors read from now on."""
        new = self.reading.with_suffix(".new")
        new.write_text(json.dumps(reading))
        new.rename(self.reading)


MakePlace = Callable[..., Place]


@pytest.fixture(scope="module")
def make_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePlace]:
    """Makes a place with the settings of a test; the same settings share a place."""
    places: dict[str, Place] = {}

    def make(tables: str = CALM, top: str = "") -> Place:
        known = top + tables
        if known not in places:
            folder = tmp_path_factory.mktemp("place")
            (folder / "hook").mkdir()
            (folder / "hook" / "sitecustomize.py").write_text(SENSORS)
            environment = {
                "READING": str(folder / "reading.json"),
                "PYTHONPATH": str(folder / "hook"),
            }
            fake = Fake()
            server = routed_server(
                folder,
                fake,
                tables=tables,
                top=f"warms_connections = false\n{top}",
                environment=environment,
            )
            places[known] = Place(server, fake, folder / "reading.json")
        place = places[known]
        place.reading.unlink(missing_ok=True)
        return place

    yield make
    for place in places.values():
        place.feels()
        assert place.server.stop() == 0, place.server.said
        place.fake.stop()


def check(
    place: Place,
    answer: Answer,
    reason: str,
    *,
    began: bool,
    signals: dict[str, float | None] | None = None,
) -> None:
    """One handoff for *reason* to the provider, with these *signals* (None: with any value), in
    one text; the records say the same."""
    assert answer.reasons == [reason], (answer, place.server.said)
    (handoff,) = answer.of("handoff")
    assert handoff["from"] == {"origin": "local", "model": "storyteller", "provider": None}
    assert handoff["to"] == {"origin": "cloud", "model": "cloud-model", "provider": "fake-1"}
    assert handoff["mode"] == "continue"
    for name, value in (signals or {}).items():
        assert handoff["signals"][name] == (handoff["signals"][name] if value is None else value)
    assert len(answer.of("seam")) == 1
    at = answer.at[answer.names.index("handoff")]
    said = answer.text[: min(at, handoff["keep_chars"])]
    assert bool(said) == began, answer
    if began:
        assert answer.text == (said + REST.lstrip() if said[-1:].isspace() else said + REST)
    else:
        assert answer.text == WHOLE
    assert answer.finish == ["stop"]
    assert answer.is_done
    record = httpx.get(f"{place.server.url}/v1/handoffs").json()["data"][0]
    assert (record["reason"], record["signals"]) == (reason, handoff["signals"])
    assert record["seam"]["seam"] == answer.of("seam")[0]["seam"]


def script(place: Place) -> None:
    place.fake.script(Act(text=WHOLE, rest=REST))


LONG: dict[str, Any] = {"ignore_eos": True, "max_tokens": 900}


# --- before the first token --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "body", "reading", "signals"),
    [
        ("rule", {"messages": said("What is a cumulus?")}, None, {"rule": 0}),
        ("rule", {"messages": said("Read C-123456 to me.")}, None, {"rule": 1}),
        ("tools", {"tools": [TOOL]}, None, {"n_tools": 1}),
        (
            "language",
            {"messages": said("Erzähl mir bitte eine Geschichte von einem Fuchs.")},
            None,
            {},
        ),
        ("context", {"messages": said("Ruby the fox saw a bird. " * 400)}, None, {"n_ctx": 1024}),
        ("memory", {}, {"free": 0.01}, {"memory_low": 0.04}),
        ("thermal", {}, {"celsius": 93.0}, {"temperature_c": 93.0, "temperature_high_c": 90.0}),
        ("battery", {}, {"charge": 7, "plugged": False}, {"battery": 0.07, "battery_low": 0.1}),
    ],
)
def test_a_reason_known_before_the_start_sends_the_whole_answer_to_the_cloud(
    make_place: MakePlace,
    reason: str,
    body: dict[str, Any],
    reading: dict[str, Any] | None,
    signals: dict[str, float | None],
) -> None:
    place = make_place()
    script(place)
    if reading is not None:
        place.feels(**reading)
    answer = follow(place.server, **body)
    check(place, answer, reason, began=False, signals=signals)


def test_a_battery_that_is_being_charged_is_not_low(make_place: MakePlace) -> None:
    place = make_place()
    place.feels(charge=3, plugged=True)
    assert follow(place.server, max_tokens=20).reasons == []


# --- in mid-answer: the device -----------------------------------------------------------------


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


# --- in mid-answer: the text --------------------------------------------------------------------


def forced(*tokens: int, **fields: Any) -> dict[str, Any]:
    """A body whose local answer begins with *tokens*, all different, in order."""
    biases = {str(token): 100.0 - 10 * n for n, token in enumerate(tokens)}
    penalty = {"repeat_penalty": 10.0, "repeat_last_n": 64}
    return {"logit_bias": biases, **penalty, "max_tokens": 300, **fields}


def test_a_loop_is_cut_before_its_second_round(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    (word,) = token_ids(" fox")
    answer = follow(place.server, logit_bias={str(word): 100.0}, max_tokens=300)
    assert answer.reasons == ["repetition"]
    assert answer.of("handoff")[0]["signals"]["copies"] >= 3
    assert answer.text.count("fox") <= 1
    assert answer.text.endswith(WHOLE if "fox" not in answer.text else REST)
    assert "fox fox" not in place.fake.requests[-1].body


def test_control_tokens_in_the_text_never_reach_client_or_cloud(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    answer = follow(place.server, **forced(*token_ids("The end [INST]")))
    assert answer.reasons == ["template_leak"]
    assert "[INST" not in answer.plain
    assert "INST" not in place.fake.requests[-1].body
    assert answer.plain.startswith("The end")
    assert answer.text == WHOLE  # so little is begun anew


def test_an_answer_that_goes_over_to_another_script_is_taken_back(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    first, second = token_ids("а")  # noqa: RUF001  # Cyrillic
    body = forced(first, second, repeat_last_n=1)
    answer = follow(place.server, **body)
    assert answer.reasons == ["wrong_script"]
    assert answer.of("handoff")[0]["signals"] == {"foreign_letters": 16}
    assert answer.text == WHOLE
    assert "а" not in place.fake.requests[-1].body  # noqa: RUF001


def test_a_refusal_is_never_seen(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    question = said("What is the capital of France?")
    answer = follow(place.server, messages=question)
    check(place, answer, "refusal", began=False)
    assert answer.plain == WHOLE


def test_an_answer_without_a_word_is_none(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    end = 2
    answer = follow(place.server, logit_bias={str(end): 100.0})
    check(place, answer, "empty", began=False)


THINKS = """
chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}<think>"
"""


def test_a_reasoning_without_an_answer(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    """The model ends behind its first thought."""
    place = make_place(top=THINKS)
    script(place)
    end = 2
    answer = follow(place.server, **forced(*token_ids(" bird"), end))
    check(place, answer, "no_answer", began=False)


def test_a_response_format_that_the_local_model_cannot_be_held_to(make_place: MakePlace) -> None:
    """It used to be a 400, although a provider supports the format."""
    place = make_place()
    place.fake.script(Act(text='{"names": ["Ruby", "Max"]}'))
    names = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"type": "object", "properties": {"names": names}, "required": ["names"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = follow(place.server, response_format=response_format)
    assert answer.reasons == ["schema"], answer
    assert json.loads(answer.text) == {"names": ["Ruby", "Max"]}
    alone = follow(place.server, response_format=response_format, spillover={"only": "local_only"})
    assert alone.error["type"] == "invalid_request_error"
    assert "uniqueItems" in alone.error["message"]


KEEN = """
[policy]
switched_off = ["refusal"]
"""


def test_a_doubtful_answer_is_handed_over(make_place: MakePlace) -> None:
    place = make_place(KEEN)
    script(place)
    question = said("Explain the history of the Byzantine tax system.")
    answer = follow(place.server, messages=question)
    assert answer.reasons == ["low_confidence"], answer
    signals = answer.of("handoff")[0]["signals"]
    assert signals["p_wrong"] >= signals["threshold"] >= PolicySettings().p_wrong_enter
    assert answer.text.endswith(("The end.", WHOLE))


def test_a_full_context_continues_in_the_cloud(make_place: MakePlace) -> None:
    place = make_place(PATIENT)
    script(place)
    answer = follow(place.server, ignore_eos=True, max_tokens=None)
    check(place, answer, "context", began=True, signals={"n_tokens": 1024})


# --- time ---------------------------------------------------------------------------------------


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


# --- the user, the worker, the way back ---------------------------------------------------------


def test_the_user_asks_in_mid_answer(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    check(place, follow(place.server, hand_over(place.server), **LONG), "user", began=True)


@pytest.mark.parametrize("wish", [{"prefer": "cloud"}, {"only": "cloud_only"}])
def test_the_user_asks_before_the_start(make_place: MakePlace, wish: dict[str, str]) -> None:
    place = make_place()
    script(place)
    check(place, follow(place.server, spillover=wish), "user", began=False)


def test_the_next_turn_stays_where_the_conversation_went(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    first = said("What is a cumulus?")
    answer = follow(place.server, messages=first)
    turns = [
        *first,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "Tell me a story about a fox."},
    ]
    title = follow(place.server, messages=turns, max_tokens=4, priority="background")
    assert title.reasons == []  # what is asked in the background is no turn
    check(place, follow(place.server, messages=turns), "sticky", began=False)


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


def test_a_provider_that_breaks_off_gives_the_answer_back(make_place: MakePlace) -> None:
    place = make_place(f"# back\n{CALM}")
    half = " Then a cloud came by and it rained on all of them" * 2
    for reason, act in (
        ("provider", Act(rest=half, no_terminal=True)),
        ("network", Act(rest=half, cut_after_chunks=22, cut="reset")),
    ):
        place.fake.script(act)
        answer = follow(place.server, hand_over(place.server), **LONG)
        assert answer.reasons == ["user", reason]
        there, back = answer.of("handoff")
        assert (back["from"], back["to"]) == (there["to"], there["from"])
        assert [e["seam"] for e in answer.of("seam")] == ["anchor", "prefill"]
        assert "Then a cloud" in answer.text
        assert [leg["origin"] for leg in answer.usage["by_leg"]] == ["local", "cloud", "local"]
        assert answer.finish[0] in ("stop", "length")
        assert answer.is_done


def test_every_reason_is_made_to_happen_here() -> None:
    source = Path(__file__).read_text()
    codes = [code for kind in (CapacityCode, QualityCode, PromptCode) for code in get_args(kind)]
    for code in (*codes, "user", "network", "provider", "sticky"):
        assert re.search(rf'"{code}"', source), code
