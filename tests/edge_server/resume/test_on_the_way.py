"""A client leaves while its answer changes its writer, with and without a resumable stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import openai
import pytest

from tests.answers import REST
from tests.edge_server.resume.answer import Client
from tests.edge_server.resume.conftest import DOUBTS, Site
from tests.edge_server.resume.connecting import (
    CHAT,
    LONG,
    RESUME,
    begin,
    name_of,
    place,
    states,
    take,
    take_up,
    whole,
)
from tests.fakes.script import Act
from tests.waiting import wait_until

BODY: dict[str, Any] = {**LONG, "max_tokens": 600}
IN_THE_GAP = Act(rest=REST, hold_before_response=True)
IN_THE_SEAM = Act(rest=REST, hold_after_chunks=2)
"""The anchor is not complete: what came of it is held back."""
IN_THE_CLOUD = Act(rest=REST, hold_after_chunks=12)
MakeSite = Callable[..., Site]
WHERE = pytest.mark.parametrize(
    "act", [IN_THE_GAP, IN_THE_SEAM, IN_THE_CLOUD], ids=["gap", "seam", "cloud"]
)


def plainly(site: Site, body: dict[str, Any]) -> AbstractContextManager[httpx.Response]:
    url = f"{site.server.url}{CHAT}"
    return httpx.stream("POST", url, json={**body, "stream": True}, timeout=60)


def is_idle(site: Site) -> bool:
    return set(states(site.server)) == {"idle"}


def hand_over(site: Site, parts: Iterator[bytes]) -> bytes:
    """Read some, ask for a handoff to the cloud, and wait until the fake holds."""
    received = b""
    for part in parts:
        received += part
        if received.count(b'"content":"') > 20:
            break
    event = next(e for e in received.split(b"\n\n") if b"data: {" in e)
    answer_id = json.loads(event.partition(b"data: ")[2])["id"]
    reply = site.http.post("/v1/handoffs", json={"id": answer_id})
    assert reply.status_code == 202
    site.fake.wait_for(holding=1)
    return received[: received.rindex(b"\n\n") + 2]


@WHERE
def test_a_client_that_comes_back_has_the_text_of_both(make_site: MakeSite, act: Act) -> None:
    site = make_site(deterministic="true")  # so that the local model says the same twice
    site.fake.script(act)
    client = Client()
    body = {**BODY, "spillover": {"events": True}}
    with begin(site.server, body) as response:
        name, parts = name_of(response), response.iter_raw()
        client.take(hand_over(site, parts))
    with take_up(site.server, name, client.last):
        site.fake.release()  # and the connection breaks again
    with take_up(site.server, name, client.last) as response:
        take(client, response.iter_raw())
    assert client.names == ["handoff", "seam"]
    assert client.end == "[DONE]"
    local = whole(site.server, {**BODY, "spillover": {"only": "local_only"}})
    # The local text may end in white space already, which the seam does not repeat.
    said, joined, more = client.text.rpartition(REST.strip())
    assert joined
    assert not more
    assert said[-1].isspace()
    assert local.startswith(said.rstrip())
    assert len(site.fake.requests) == 1


@WHERE
def test_an_abandoned_answer_ends_its_request_and_spends_no_more(
    make_site: MakeSite, act: Act
) -> None:
    site = make_site(resume_grace_s=0.2)
    site.fake.script(act)
    with begin(site.server, BODY) as response:
        name, parts = name_of(response), response.iter_raw()
        hand_over(site, parts)
    (request,) = site.fake.wait_for(ended=1).requests
    assert request.ended == "client_closed"
    wait_until(lambda: is_idle(site) and not site.allowance.reserved)
    spent = site.allowance.spent
    site.fake.release()
    reply = httpx.get(place(site.server, name), timeout=60)
    assert "no client came back" in reply.text
    assert "cloud came by and finished" not in reply.text
    assert site.allowance.spent == spent
    assert len(site.fake.requests) == 1


@WHERE
def test_without_a_way_back_leaving_ends_the_request_at_once(make_site: MakeSite, act: Act) -> None:
    site = make_site()
    site.fake.script(act)
    with plainly(site, BODY) as response:
        parts = response.iter_raw()
        hand_over(site, parts)
    (request,) = site.fake.wait_for(ended=1).requests
    assert request.ended == "client_closed"
    wait_until(lambda: is_idle(site) and not site.allowance.reserved)
    (record,) = site.http.get("/v1/handoffs").json()["data"]
    cloud = record["by_leg"][-1]
    # The provider took the prompt, and may want to be paid for it.
    today = site.http.get("/v1/budget").json()["data"][0]
    assert today["tokens"] == {"spent": site.allowance.spent, "reserved": 0, "limit": 1_000_000}
    assert site.allowance.spent == cloud["prompt_tokens"] + cloud["completion_tokens"]
    if act is IN_THE_GAP:
        assert cloud["completion_tokens"] == 0
    assert len(site.fake.requests) == 1


def test_who_comes_back_while_the_local_text_is_held_has_all_of_it(make_site: MakeSite) -> None:
    site = make_site(DOUBTS, deterministic="true")  # so that it says the same twice
    client = Client()
    with begin(site.server, BODY) as response:
        name = name_of(response)
        take(client, response.iter_raw(), until=lambda: client.last == 1)
        wait_until(lambda: "decode" in states(site.server))
    with take_up(site.server, name, client.last) as response:
        take(client, response.iter_raw())
    assert client.end == "[DONE]"
    alone = whole(site.server, {**BODY, "spillover": {"only": "local_only"}})
    assert client.text == alone
    assert len(client.text) > 1000
    assert site.fake.requests == []


def test_without_a_way_back_leaving_while_the_local_text_is_held_asks_no_provider(
    make_site: MakeSite,
) -> None:
    site = make_site(DOUBTS)
    with plainly(site, {**BODY, "max_tokens": 900}) as response:
        received = b""
        for part in response.iter_raw():
            received += part
            if b": keep-alive" in part and "decode" in states(site.server):
                break
        assert received.count(b'"content":"') < 20
    wait_until(lambda: is_idle(site))
    assert site.fake.requests == []
    assert (site.allowance.spent, site.allowance.reserved) == (0, 0)


def test_the_openai_client_is_not_disturbed_by_silence(make_site: MakeSite) -> None:
    """Comments between events with ids used to end in a blank line, which this client takes for an
    event without data."""
    site = make_site()
    site.fake.script(Act(text="A cloud speaks.", first_delay_s=0.5))
    with openai.OpenAI(base_url=f"{site.server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="any", messages=LONG["messages"], stream=True, extra_headers=RESUME,
            extra_body={"spillover": {"prefer": "cloud"}},
        )  # fmt: skip
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "A cloud speaks."
