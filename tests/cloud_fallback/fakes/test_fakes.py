"""The fakes do what they are told, and tell what was done to them."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
from typing import Any, get_args

import pytest

from spillover.cloud_fallback.providers.companies import COMPANIES, WireFormat
from tests.cloud_fallback.providers import DIALECTS
from tests.fakes.asked import DialectName
from tests.fakes.fake import ROOT, Fake
from tests.fakes.frames import FAKE_STREAMS
from tests.fakes.script import Act

PARTIAL = "Once upon a time there was a"
WHOLE = f"{PARTIAL} fox named Ruby."
NOTICE = "It broke off at «time there was a». Please go on."


def post(fake: Fake, *contents: str) -> tuple[int, str]:
    """The status and the text of an answer to turns of user and assistant, in turn."""
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
    try:
        body = json.dumps({"model": "m", "messages": turns})
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def said(body: str) -> str:
    """The text in an OpenAI stream."""
    events = [line[6:] for line in body.split("\n") if line.startswith("data: {")]
    choices = [c for event in events for c in json.loads(event).get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_every_wire_format_is_spoken_and_asked_for() -> None:
    assert set(FAKE_STREAMS) == set(get_args(DialectName))
    assert {COMPANIES[dialect].wire for dialect in DIALECTS} == set(get_args(WireFormat))


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        ("anchor", "time there was a fox named Ruby."),
        ("no_anchor", " fox named Ruby."),
        ("restart", WHOLE),
        ("rewrite", "Quite another answer."),
        ("preamble", "Sure, continuing where I left off: time there was a fox named Ruby."),
        ("whitespace", "time\n there\n was\n a fox named Ruby."),
        ("quoted", "“time there was a” fox named Ruby."),
        ("nothing", ""),
    ],
)
def test_a_request_to_continue_is_answered_in_every_manner(
    fake: Fake, manner: Any, expected: str
) -> None:
    fake.script(Act(text=WHOLE, manner=manner))
    _, body = post(fake, "Tell me a story.", PARTIAL, NOTICE)
    assert said(body) == expected


def test_a_prefilled_turn_is_continued(fake: Fake) -> None:
    fake.script(Act(text=WHOLE))
    assert said(post(fake, "Tell me a story.", PARTIAL)[1]) == " fox named Ruby."


def test_somebody_elses_text_is_continued(fake: Fake) -> None:
    fake.script(Act(rest=" and so on."))
    assert said(post(fake, "Hi", PARTIAL, NOTICE)[1]) == "time there was a and so on."


def test_a_prefill_is_refused_where_it_is_not_supported(fake: Fake) -> None:
    fake.script(Act(takes_prefill=False))
    status, body = post(fake, "Tell me a story.", PARTIAL)
    assert (status, "prefill" in body) == (400, True)


def test_acts_come_in_turn_and_the_last_stays(fake: Fake) -> None:
    fake.script(Act(text="one"), Act(text="two"))
    assert [said(post(fake, "?")[1]) for _ in range(3)] == ["one", "two", "two"]


def test_every_byte_count_can_be_cut(fake: Fake) -> None:
    fake.script(Act(text="one"))
    _, whole = post(fake, "?")
    for n in range(1, len(whole), 97):
        fake.script(Act(text="one", cut_after_bytes=n, cut="clean"))
        assert post(fake, "?")[1] == whole[:n]


@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_connection_breaks_in_the_middle(fake: Fake, cut: Any) -> None:
    fake.script(Act(cut_after_chunks=2, cut=cut))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        post(fake, "?")


def test_what_was_asked_is_recorded_with_its_times(fake: Fake) -> None:
    post(fake, "What?")
    record = fake.wait_for(open=0)
    (request,) = record.requests
    assert request.json()["messages"][0]["content"] == "What?"
    assert (record.accepted, request.ended) == (1, "complete")
    assert request.answered_at is not None
    assert request.first_text_at is not None
    assert request.arrived_at <= request.answered_at <= request.first_text_at


def test_a_client_that_leaves_is_noticed(fake: Fake) -> None:
    fake.script(Act(hold_after_chunks=1))
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": []}))
    fake.wait_for(holding=1)
    connection.close()
    record = fake.wait_for(open=0, ended=1)
    assert record.requests[0].ended == "client_closed"


def test_connections_are_refused_for_a_while(fake: Fake) -> None:
    fake.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        post(fake, "?")
    fake.accept_connections()
    assert post(fake, "?")[0] == 200


def test_a_fake_dies_with_its_parent() -> None:
    program = (
        "import sys, time; from tests.fakes.fake import Fake; "
        "print(Fake()._process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        fake = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(fake, select.POLLIN)
    assert poll.poll(10_000), "the fake goes on without its parent"
    os.close(fake)
