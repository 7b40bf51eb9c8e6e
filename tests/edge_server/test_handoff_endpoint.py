"""Handoffs as clients of the endpoint see them: a real server, a fake provider, real clients."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.edge_server.wire.handoff import MAX_PREVIEW_CHARS, preview
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import REST
from tests.edge_server.conftest import Server
from tests.edge_server.routed import lines, routed_server
from tests.edge_server.story import ENDLESS, STORY
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens
from tests.waiting import wait_until

KEY = "sk-canary-of-the-endpoint"

CONFIG = """
fallback = "{fallback}"
data_dir = "{folder}"
consent_timeout_s = 20
[[provider]]
name = "fake"
dialect = "openai"
model = "cloud-model"
base_url = "{url}/v1"
key_variable = "FAKE_KEY"
is_local_network = false
prices = {{ input_usd = 2.0, output_usd = 10.0, priced_on = 2026-11-01 }}
[policy]
switched_off = ["low_confidence", "language", "wrong_script", "refusal"]
[[policy.rules]]
name = "clouds"
words = ["cumulus"]
"""

MakeServer = Callable[..., Server]


@pytest.fixture
def make_server(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeServer]:
    """Starts a server whose one provider is the fake."""
    servers = []

    def make(fallback: str, *arguments: str) -> Server:
        config = tmp_path / "config.toml"
        config.write_text(CONFIG.format(fallback=fallback, folder=tmp_path, url=fake.url))
        monkeypatch.setenv("FAKE_KEY", KEY)
        servers.append(Server(tmp_path, "--config", str(config), *arguments))
        return servers[-1]

    yield make
    for server in servers:
        assert server.stop() == 0
        assert KEY not in server.said


def ask(server: Server, **body: Any) -> Any:
    """A streamed request; use as a context."""
    body = {"messages": STORY, "stream": True, "temperature": 0, "max_tokens": 400, **body}
    return httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60)


def test_a_plain_client_gets_one_valid_stream_that_says_who_writes(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("auto")
    fake.script(Act(rest=REST, usage=Tokens(prompt=100, completion=20)))
    text, models, asked = "", [], False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        chunks = []
        for chunk in client.chat.completions.create(
            model="x",
            messages=STORY,
            stream=True,
            temperature=0,
            max_tokens=900,
            stream_options={"include_usage": True},
            extra_body=ENDLESS,  # else it may end before the handoff is asked for
        ):
            chunks.append(chunk)
            models.append(chunk.model)
            for choice in chunk.choices:
                text += choice.delta.content or ""
            if len(text) > 60 and not asked:
                asked = True
                reply = httpx.post(f"{server.url}/v1/handoffs", json={"id": chunk.id}, verify=False)
                assert reply.status_code == 202
    assert text.endswith(REST.lstrip())
    assert models[0] == "storyteller"
    assert models[-1] == "cloud-model"
    assert [m for i, m in enumerate(models) if not i or models[i - 1] != m] == [
        "storyteller",
        "cloud-model",
    ]
    assert len({chunk.id for chunk in chunks}) == 1
    finish = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [reason for reason in finish if reason] == ["stop"]
    usage: Any = chunks[-1].usage
    assert [leg["origin"] for leg in usage.by_leg] == ["local", "cloud"]
    assert usage.by_leg[1]["usd"] == pytest.approx((100 * 2 + 20 * 10) / 1e6)


def test_a_client_that_opts_in_sees_the_handoff_and_the_seam(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("auto")
    fake.script(Act(rest=REST))
    events, text, asked = [], "", False
    with ask(server, max_tokens=900, spillover={"events": True}, **ENDLESS) as response:
        for name, data in lines(response):
            if name:
                events.append((name, data["spillover"]))
            for choice in (data or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
            if len(text) > 60 and not asked:
                asked = True
                httpx.post(f"{server.url}/v1/handoffs", json={"id": data["id"]}, verify=False)
    (handoff_name, handoff), (seam_name, seam) = events
    assert (handoff_name, seam_name) == ("handoff", "seam")
    assert handoff["reason"] == "user"
    assert handoff["from"] == {"origin": "local", "model": "storyteller", "provider": None}
    assert handoff["to"] == {"origin": "cloud", "model": "cloud-model", "provider": "fake"}
    assert text[handoff["keep_chars"] :].strip() == REST.strip()
    assert seam["seam"] == "anchor"
    assert seam["gap_ms"] > 0
    (record,) = httpx.get(f"{server.url}/v1/handoffs").json()["data"]
    assert (record["reason"], record["seam"]["seam"]) == ("user", "anchor")
    assert "fox" not in json.dumps(record)


def test_a_rule_sends_a_prompt_to_the_cloud_before_the_first_token(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("auto")
    fake.script(Act(text="A cumulus is a heap of cloud."))
    body = {"messages": [{"role": "user", "content": "What is a cumulus?"}]}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == "A cumulus is a heap of cloud."
    assert reply["model"] == "cloud-model"
    assert reply["spillover"][0]["reason"] == "rule"


def test_a_question_is_open_until_the_user_answers_it_once(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("ask")
    fake.script(Act(text="A cumulus is a heap of cloud."))
    asked = "What is a cumulus? Tell ada@example.org."
    messages = [{"role": "user", "content": asked}]
    text, kinds = "", []
    with ask(server, messages=messages, spillover={"events": True}) as response:
        for _name, data in lines(response):
            said = (data or {}).get("spillover")
            if said:
                kinds.append(said["type"])
            if said and said["type"] == "consent_asked":
                assert fake.record.accepted == 0
                (pending,) = httpx.get(f"{server.url}/v1/consents").json()["data"]
                assert pending["id"] == said["id"]
                assert "cumulus" not in json.dumps(pending)
                usd = said["estimate"]["usd"]
                assert 0 < usd["prompt"] < usd["with_answer"]
                place = f"{server.url}/v1/consents/{said['id']}"
                preview = httpx.get(place).json()["preview"]
                shown = preview["messages"][0]["text"]
                assert shown == "What is a cumulus? Tell [EMAIL_1]."
                assert httpx.get(f"{server.url}/v1/consents/no-such").status_code == 404
                assert httpx.post(place, json={"granted": True, "scope": "moon"}).status_code == 400
                reply = httpx.post(place, json={"granted": True, "scope": "chat"})
                assert reply.json() == {"id": said["id"], "granted": True, "scope": "chat"}
                assert httpx.post(place, json={"granted": False}).status_code == 409
                assert httpx.get(place).status_code == 404
            if said and said["type"] == "replace":
                text = text[: said["keep_chars"]]
            for choice in (data or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
    # What the local model had written meanwhile is taken back.
    assert [kind for kind in kinds if kind != "replace"] == [
        "consent_asked",
        "consent_answered",
        "handoff",
        "seam",
    ]
    assert text == "A cumulus is a heap of cloud."
    assert httpx.get(f"{server.url}/v1/consents").json()["standing"] == []
    assert httpx.post(f"{server.url}/v1/consents/no-such", json={"granted": True}).is_client_error


def test_a_preview_is_of_what_would_be_sent_now_and_says_that_it_may_grow(
    make_server: MakeServer, fake: Fake
) -> None:
    """It was of the moment of the question, while the text behind it went along."""
    server = make_server("ask")
    fake.script(Act(rest=REST))
    text, place, previews = "", "", list[dict[str, Any]]()
    with ask(server, ignore_eos=True, max_tokens=900, spillover={"events": True}) as response:
        for _name, data in lines(response):
            said = (data or {}).get("spillover", {})
            if said.get("type") == "consent_asked":
                place = f"{server.url}/v1/consents/{said['id']}"
            if said.get("type") == "handoff":
                break
            n_before = len(text)
            for choice in (data or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
            if n_before <= 60 < len(text):
                httpx.post(f"{server.url}/v1/handoffs", json={"id": data["id"]})
            if place and len(previews) < 2 and len(text) > 100 * (len(previews) + 1):
                previews.append(httpx.get(place).json()["preview"])
                if len(previews) == 2:
                    assert httpx.post(place, json={"granted": True}).status_code == 200
    earlier, later = (
        next(one["text"] for one in preview["messages"] if one["role"] == "assistant")
        for preview in previews
    )
    assert [preview["may_grow"] for preview in previews] == [True, True]
    assert len(earlier) < len(later)
    assert later.startswith(earlier.rstrip())
    sent = json.loads(fake.requests[0].body)["messages"]
    (assistant,) = (one["content"] for one in sent if one["role"] == "assistant")
    assert assistant.startswith(later.rstrip())


def test_a_preview_is_bounded_and_shows_the_latest_messages() -> None:
    long = Message(role="user", content="a" * 20_000 + "z")
    last = Message(role="assistant", content="The end.")
    shown = preview(GenerationRequest(messages=(long,) * 6 + (last,)))
    assert shown["messages"][-1]["text"] == "The end."
    assert sum(len(one["text"]) for one in shown["messages"]) < 1.1 * MAX_PREVIEW_CHARS
    assert shown["n_earlier_messages"] + len(shown["messages"]) == 7
    first = shown["messages"][1]
    assert first["text"].endswith("z")
    assert first["left_out_chars"] == 20_001 - MAX_PREVIEW_CHARS // 4


def test_what_the_cloud_wrote_before_the_server_was_killed_is_booked(
    fake: Fake, tmp_path: Path
) -> None:
    """Only the prompt was, which costs least."""
    said = "A cumulus is a heap of cloud. " * 20
    fake.script(Act(text=said, hold_after_chunks=len(said) // 4 - 1))
    server = routed_server(tmp_path, fake)
    text = ""
    with suppress(httpx.HTTPError), ask(server, spillover={"prefer": "cloud"}) as response:
        for _name, data in lines(response):
            for choice in (data or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
            if len(text) > len(said) / 2:
                server.process.kill()
    server.stop()
    ledger = Database(tmp_path / "ledger.sqlite3")
    with closing(Budget(ledger, BudgetSettings())) as budget:
        spent = budget.statement(())[0].spent.tokens
    n_prompt = 30
    assert spent >= n_prompt + len(text) / 4


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_cannot_show_a_question_is_answered_here(
    make_server: MakeServer, fake: Fake, stream: bool
) -> None:
    """It used to wait for a minute, for a reply that nobody could give."""
    server = make_server("ask")
    body = {"messages": [{"role": "user", "content": "What is a cumulus?"}], "stream": stream}
    with ask(server, max_tokens=40, **body) as response:
        for _ in response.iter_lines():
            assert httpx.get(f"{server.url}/v1/consents").json()["data"] == []
    assert fake.record.accepted == 0


def test_a_request_that_wants_to_be_asked_may_be_answered_elsewhere(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("ask")
    fake.script(Act(text="A cumulus is a heap of cloud."))
    messages = [{"role": "user", "content": "What is a cumulus?"}]
    with ThreadPoolExecutor(1) as pool:
        url = f"{server.url}/v1/chat/completions"
        body = {"messages": messages, "max_tokens": 400, "spillover": {"fallback": "ask"}}
        answer = pool.submit(httpx.post, url, json=body, timeout=60)
        with httpx.Client(base_url=server.url) as http:
            wait_until(lambda: answer.done() or bool(http.get("/v1/consents").json()["data"]))
            (pending,) = http.get("/v1/consents").json()["data"]
        place = f"{server.url}/v1/consents/{pending['id']}"
        assert httpx.post(place, json={"granted": True}).status_code == 200
        message = answer.result().json()["choices"][0]["message"]
    assert message["content"] == "A cumulus is a heap of cloud."


HOOK = """
import os, sys
def see(name, arguments):
    if name in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{name} {arguments!r}\\n")
sys.addaudithook(see)
"""


def test_never_means_that_not_one_byte_leaves(
    make_server: MakeServer, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All name look-ups and connections of server and worker are recorded."""
    seen = tmp_path / "seen"
    seen.write_text("")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    monkeypatch.setenv("SEEN", str(seen))
    server = make_server("never")
    messages = [{"role": "user", "content": "What is a cumulus? Mail me: max@example.org"}]
    for own in ({}, {"fallback": "auto"}, {"prefer": "cloud"}, {"events": True}):
        with ask(server, messages=messages, max_tokens=30, spillover=own) as response:
            assert response.status_code == 200
            chunks = [data for _, data in lines(response)]
        assert not any((chunk or {}).get("spillover") for chunk in chunks)
    with ask(server, spillover={"only": "cloud_only"}) as response:
        assert response.status_code == 400
    assert seen.read_text() == ""
    assert fake.record.accepted == 0


def test_the_hook_of_that_test_sees_what_leaves(
    make_server: MakeServer, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    monkeypatch.setenv("SEEN", str(seen))
    server = make_server("auto")
    with ask(server, max_tokens=30, spillover={"prefer": "cloud"}) as response:
        list(lines(response))
    assert str(fake.port) in seen.read_text()
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"spillover": {"only": "moon_only"}}, 400),
        ({"spillover": {"fallback": "always"}}, 400),
        ({"spillover": {"mode": "sideways"}}, 400),
        ({"spillover": 3}, 400),
    ],
)
def test_a_wrong_wish_is_a_400_that_names_the_field(
    server: Server, body: dict[str, Any], status: int
) -> None:
    reply = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": STORY, **body}, timeout=30
    )
    assert reply.status_code == status
    assert "spillover" in reply.json()["error"]["message"]


def test_other_peoples_answers_cannot_be_steered(server: Server) -> None:
    reply = httpx.post(f"{server.url}/v1/handoffs", json={"id": "chatcmpl-nobody"})
    assert reply.status_code == 404
    for limit in ("0", "-1", "x", "1e3", "99999999999999999999999", "0" * 17 + "50999"):
        reply = httpx.get(f"{server.url}/v1/handoffs", params={"limit": limit})
        assert reply.status_code == 400


def test_a_handoff_that_nobody_can_take_over_is_refused_with_the_cause(
    make_server: MakeServer, fake: Fake
) -> None:
    """It used to be accepted with 202, and nothing happened."""
    server = make_server("auto")
    fake.script(Act(refusal="auth"))
    body = {"messages": STORY, "max_tokens": 8, "spillover": {"prefer": "cloud"}}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    (failed,) = [event for event in reply["spillover"] if event["type"] == "provider_failed"]
    assert failed["code"] == "auth"
    assert failed["address"] == f"{fake.url}/v1"
    assert failed["provider"]["provider"] == "fake"
    asked = None
    with ask(server) as response:
        for _name, data in lines(response):
            if asked is None and data:
                asked = httpx.post(
                    f"{server.url}/v1/handoffs", json={"id": data["id"]}, verify=False
                )
    assert asked is not None
    assert asked.status_code == 409
    message = asked.json()["error"]["message"]
    assert message.startswith("nobody can take over this answer: fake: it is not asked for another")


def test_a_client_that_opts_in_sees_the_failed_provider_in_the_stream(
    make_server: MakeServer, fake: Fake
) -> None:
    server = make_server("auto")
    fake.script(Act(refusal="billing"))
    wanted = {"events": True, "prefer": "cloud"}
    with ask(server, max_tokens=8, spillover=wanted) as response:
        events = [(name, data["spillover"]) for name, data in lines(response) if name]
    assert [name for name, _ in events] == ["handoff", "provider", "handoff"]
    failed = events[1][1]
    assert (failed["type"], failed["code"]) == ("provider_failed", "billing")
    assert failed["message"]
    assert failed["address"] == f"{fake.url}/v1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": STORY, "max_tokens": 4}),
        ("/v1/responses", {"input": "Tell me of a fox.", "max_output_tokens": 4}),
        ("/v1/messages", {"messages": STORY, "max_tokens": 4}),
        ("/api/chat", {"messages": STORY, "options": {"num_predict": 4}, "stream": False}),
    ],
)
def test_the_name_of_a_model_may_say_who_writes(
    make_server: MakeServer, fake: Fake, path: str, body: dict[str, Any]
) -> None:
    server = make_server("auto")
    fake.script(Act(text="Hello."))
    listed = [entry["id"] for entry in httpx.get(f"{server.url}/v1/models").json()["data"]]
    assert listed[0] == "storyteller"
    assert listed[-4:] == ["auto", "local", "private", "cloud"]
    writers = {"cloud": "cloud-model", "private": "storyteller", "private:latest": "storyteller"}
    for name, writer in writers.items():
        asked = {**body, "model": name, "spillover": {"prefer": "cloud"}}
        answer = httpx.post(f"{server.url}{path}", json=asked, timeout=60)
        assert answer.json()["model"] == writer, answer.text


def test_a_name_widens_nothing(make_server: MakeServer, fake: Fake) -> None:
    server = make_server("never")
    listed = [entry["id"] for entry in httpx.get(f"{server.url}/v1/models").json()["data"]]
    assert "cloud" not in listed
    asked = {"messages": STORY, "max_tokens": 4, "model": "cloud"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)
    assert answer.json()["model"] == "storyteller"
    assert not fake.requests
