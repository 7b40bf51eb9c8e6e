"""What clients find out: the model's abilities, an answer's id and route, and what would happen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.answers.service import failure_of
from spillover.edge_server.wire.anthropic.answer import error_body as anthropic_error
from spillover.edge_server.wire.dialect import failure
from spillover.edge_server.wire.openai.answer import error_body as openai_error
from spillover.runtime.errors import ContextOverflow
from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.wire.dialect_bodies import ASKINGS, CHAT_IMAGE, Asking, turn, typed
from tests.fakes.fake import Fake
from tests.fakes.script import Act

ID, ROUTE = "X-Spillover-Response-Id", "X-Spillover-Route"
SETTINGS = """
[policy]
switched_off = ["low_confidence", "language", "wrong_script", "refusal"]
[[policy.rules]]
name = "clouds"
words = ["cumulus"]
[budget.total]
tokens_per_day = 100000
"""
PRICED = """vision = true
prices = { input_usd = 2.0, output_usd = 10.0, priced_on = 2026-11-01 }"""
LONG = "Ruby the fox saw a bird. " * 400
EXPLAIN = "/v1/route/explain"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    fake = Fake()
    folder = tmp_path_factory.mktemp("place")
    server = routed_server(folder, fake, fields=PRICED, tables=SETTINGS)
    yield server, fake
    assert server.stop() == 0
    fake.stop()


@pytest.fixture
def routed(place: tuple[Server, Fake]) -> Server:
    place[1].reset()
    place[1].script(Act(text="A heap of cloud.", rest=" And a cloud came. The end."))
    return place[0]


# --- an answer's id and route -------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKINGS)
def test_a_stream_of_every_dialect_says_its_id_and_that_it_is_local(
    server: Server, name: str
) -> None:
    asking = ASKINGS[name]
    with httpx.stream("POST", server.url + asking.path, json=asking.body, timeout=60) as stream:
        assert stream.status_code == 200
        assert len(stream.headers[ID]) == 32
        assert stream.headers[ROUTE] == "local"


HANDED_OVER = {name: ASKINGS[name] for name in ASKINGS if name not in ("llama.cpp", "tgi")}


def long_story(asking: Asking) -> dict[str, Any]:
    """*asking* for a long answer."""
    body = json.loads(json.dumps(asking.body).replace("What do you see?", STORY))
    if "contents" in body:
        return {**body, "generationConfig": {"temperature": 0, "ignore_eos": True}}
    if asking.path.startswith("/api"):
        return {**body, "options": {"temperature": 0, "ignore_eos": True}}
    return {**body, "temperature": 0, "ignore_eos": True, "max_tokens": 900}


@pytest.mark.parametrize("name", HANDED_OVER)
def test_a_running_answer_of_every_dialect_is_handed_over_by_the_id_in_its_head(
    routed: Server, name: str
) -> None:
    asking = HANDED_OVER[name]
    text, asked, raw = "", False, []
    with httpx.stream(
        "POST", routed.url + asking.path, json=long_story(asking), timeout=60
    ) as stream:
        assert stream.headers[ROUTE] == "local"
        for line in stream.iter_lines():
            raw.append(line)
            data = line.removeprefix("data: ")
            if data.startswith("{"):
                text += asking.stream(json.loads(data))
            if len(text) > 40 and not asked:
                asked = True
                body = {"id": stream.headers[ID]}
                reply = httpx.post(f"{routed.url}/v1/handoffs", json=body)
                assert reply.status_code == 202, reply.text
    assert text.endswith("And a cloud came. The end."), raw[-3:]


@pytest.mark.parametrize("name", HANDED_OVER)
def test_a_client_that_sees_events_is_asked_in_every_dialect(
    fake: Fake, asking_server: Server, name: str
) -> None:
    """Streams of Gemini's and Ollama's clients used to stay local under ask: nobody could be asked,
    and POST /v1/handoffs was a 409."""
    fake.script(Act(rest=" And a cloud came. The end."))
    asking = HANDED_OVER[name]
    body = {**long_story(asking), "spillover": {"events": True}}
    kinds: list[str] = []
    asked = False
    with httpx.stream("POST", asking_server.url + asking.path, json=body, timeout=60) as stream:
        for line in stream.iter_lines():
            data = line.removeprefix("data: ")
            if not data.startswith("{"):
                continue
            part = json.loads(data)
            event = part.get("spillover", part)
            if event.get("type") in ("consent_asked", "consent_answered", "handoff", "seam"):
                kinds.append(event["type"])
            if event.get("type") == "consent_asked":
                reply = httpx.post(
                    f"{asking_server.url}/v1/consents/{event['id']}", json={"granted": True}
                )
                assert reply.status_code == 200
            if not asked:
                asked = True
                body = {"id": stream.headers[ID]}
                reply = httpx.post(f"{asking_server.url}/v1/handoffs", json=body)
                assert reply.status_code == 202, reply.text
    assert kinds == ["consent_asked", "consent_answered", "handoff", "seam"]


@pytest.fixture(scope="module")
def asking_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    fake = Fake()
    server = routed_server(tmp_path_factory.mktemp("asking"), fake, fallback="ask")
    yield server, fake
    assert server.stop() == 0
    fake.stop()


@pytest.fixture
def asking_server(asking_place: tuple[Server, Fake]) -> Server:
    asking_place[1].reset()
    asking_place[1].script(Act(rest=" And a cloud came. The end."))
    return asking_place[0]


def test_a_whole_answer_tells_all_its_writers(routed: Server, place: tuple[Server, Fake]) -> None:
    place[1].script(Act(text="A heap of cloud, and", no_terminal=True))
    body = turn("What is a cumulus?") | {"max_tokens": 40, "temperature": 0}
    answer = httpx.post(f"{routed.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.headers[ROUTE] == 'cloud;provider="fake-1";reason=rule, local;reason=provider'
    assert answer.json()["id"] == f"chatcmpl-{answer.headers[ID]}"


def test_a_page_of_an_allowed_origin_may_read_both(tmp_path: Path) -> None:
    server = Server(tmp_path, "--allowed-origin", "app://obsidian.md")
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=turn("Hello") | {"max_tokens": 2},
        headers={"Origin": "app://obsidian.md"},
        timeout=60,
    )
    shown = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {ID, ROUTE} <= set(shown)
    assert server.stop() == 0


# --- models -------------------------------------------------------------------------------------


def test_the_list_of_models_says_what_the_model_can_do(server: Server) -> None:
    model, *others = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [other["id"] for other in others] == ["storyteller-onnx"]
    assert model["context_length"] == model["max_model_len"] == 1024
    assert model["modalities"] == {"input": ["text"], "output": ["text"]}
    assert model["capabilities"] == ["completion", "tools", "structured_output"]
    shown = httpx.post(f"{server.url}/api/show", json={"model": "storyteller"}).json()
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["llama.context_length"] == 1024


def test_images_and_reasoning_are_named_where_they_are_possible(fake: Fake, tmp_path: Path) -> None:
    top = """warms_connections = false
n_ctx = 512
chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}<think>"
"""
    server = routed_server(tmp_path, fake, top=top, fields="vision = true")
    models = {m["id"]: m for m in httpx.get(f"{server.url}/v1/models").json()["data"]}
    shown = httpx.post(f"{server.url}/api/show", json={"model": "storyteller"}).json()
    assert server.stop() == 0
    assert models["storyteller"]["modalities"]["input"] == ["text", "image"]
    assert models["private"]["modalities"]["input"] == ["text"]
    assert "reasoning" in models["storyteller"]["capabilities"]
    assert models["auto"]["context_length"] == 512
    assert {"thinking", "vision"} <= set(shown["capabilities"])


# --- overflow -----------------------------------------------------------------------------------

WORDS = {
    "openai": "context_length_exceeded",
    "responses": "context_length_exceeded",
    "anthropic": "prompt is too long: ",
    "gemini": "exceeds the maximum number of tokens allowed (1024)",
    "cohere": "too many tokens: ",
    "llama.cpp": "exceed_context_size_error",
    "tgi": "Input validation error: `inputs` must have less than 1024 tokens",
}


@pytest.mark.parametrize("name", ASKINGS)
def test_a_prompt_that_is_too_long_is_an_error_that_agents_recognise(
    server: Server, name: str
) -> None:
    asking = ASKINGS[name]
    body = json.loads(json.dumps(asking.body).replace("What do you see?", LONG))
    answer = httpx.post(server.url + asking.path, json=body, timeout=60)
    assert answer.status_code == 400
    assert WORDS.get(name, "") in answer.text
    assert "exceeds the available context size of storyteller, 1024 tokens" in answer.text


def test_one_that_is_found_too_late_for_a_status_is_recognised_too() -> None:
    event = failure_of(ContextOverflow(5120, 4096, "model"))
    assert isinstance(event, Failed)
    error = failure(event)
    inner = json.loads(openai_error(error))["error"]
    assert (inner["code"], inner["type"]) == (
        "context_length_exceeded",
        "exceed_context_size_error",
    )
    assert b"5120 tokens exceeds" in anthropic_error(error)


# --- progress -----------------------------------------------------------------------------------

PROGRESS = {
    "openai": {"return_progress": True},
    "responses": {"return_progress": True},
    "anthropic": {"return_progress": True},
    "ollama": {"options": {"return_progress": True}},
    "ollama generate": {"options": {"return_progress": True}},
    "gemini": {"generationConfig": {"return_progress": True}},
    "cohere": {"return_progress": True},
    "llama.cpp": {"return_progress": True},
    "tgi": {"parameters": {"return_progress": True}},
}


@pytest.mark.parametrize("name", ASKINGS)
def test_who_asks_is_told_how_much_of_the_prompt_has_been_read(server: Server, name: str) -> None:
    asking, progress = ASKINGS[name], PROGRESS[name]
    stories = LONG[:1500]
    body = json.loads(json.dumps(asking.body).replace("What do you see?", stories)) | progress
    answer = httpx.post(server.url + asking.path, json=body, timeout=60)
    parts = [
        json.loads(data)
        for line in answer.text.splitlines()
        if (data := line.removeprefix("data: ")).startswith("{")
    ]
    told = [p.get("prompt_progress") or p.get("promptProgress") for p in parts]
    reports = [each for each in told if each]
    assert reports, answer.text[:500]
    assert reports[-1]["processed"] + reports[-1]["cache"] >= reports[-1]["total"] - 1
    assert [each["processed"] for each in reports] == sorted(r["processed"] for r in reports)
    silent = httpx.post(server.url + asking.path, json=asking.body, timeout=60)
    assert "rogress" not in silent.text.replace("in_progress", "")


# --- what would happen --------------------------------------------------------------------------


def explained(server: Server, body: dict[str, Any], path: str | None = None) -> dict[str, Any]:
    query = {} if path is None else {"path": path}
    answer = httpx.post(f"{server.url}{EXPLAIN}", json=body, params=query, timeout=60)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_request_that_a_rule_sends_away_is_explained(
    routed: Server, place: tuple[Server, Fake]
) -> None:
    secret = "jane.doe@example.org"
    body = turn(f"What is a cumulus? Tell {secret} and joe@example.org") | {"max_tokens": 100}
    handoffs = httpx.get(f"{routed.url}/v1/handoffs").json()
    told = explained(routed, body)
    assert (told["route"], told["reason"]) == ("cloud", "rule")
    assert told["in_words"] == (
        "fake-1/cloud-model would answer, because one of your rules says so"
    )
    assert told["privacy"] == {"redacted": {"email": 2}}
    (provider,) = told["providers"]
    assert (provider["problem"], provider["needs_consent"]) == (None, False)
    estimate = provider["estimate"]
    usd = (estimate["prompt_tokens"] * 2 + 100 * 10) / 1e6
    assert estimate["usd"]["with_answer"] == pytest.approx(usd)
    assert told["local"]["n_ctx"] == 1024
    assert told["local"]["n_prompt_tokens"] > 10
    assert secret not in json.dumps(told)
    assert place[1].requests == []
    assert httpx.get(f"{routed.url}/v1/handoffs").json() == handoffs


@pytest.mark.parametrize("name", ASKINGS)
def test_every_dialects_requests_are_explained(
    routed: Server, place: tuple[Server, Fake], name: str
) -> None:
    asking = ASKINGS[name]
    path = asking.path.partition("?")[0]
    assert explained(routed, asking.body, path)["route"] == "local"
    if asking.image:
        told = explained(routed, {**asking.body, **asking.image}, path)
        assert (told["route"], told["reason"], told["n_images"]) == ("cloud", "modality", 1)
        assert "redaction does not look into them" in told["privacy"]["warning"]
        assert told["providers"][0]["estimate"]["prompt_tokens"] > 5_000
    assert place[1].requests == []


def test_why_nobody_would_answer_is_explained(routed: Server) -> None:
    shown = turn(typed("text", CHAT_IMAGE))
    told = explained(routed, {**shown, "model": "private"})
    assert told["route"] == "nobody"
    assert "storyteller reads only text" in told["in_words"]
    assert "must stay on this device" in told["cloud_problem"]
    long = explained(routed, turn(LONG) | {"model": "private"})
    assert "exceeds its context of 1024" in long["local"]["problem"]
    away = explained(routed, turn(LONG))
    assert (away["route"], away["reason"]) == ("cloud", "context")


def test_a_private_text_that_cannot_be_taken_out_is_why_a_request_would_stay(
    routed: Server,
) -> None:
    grammar = 'root ::= "Write to jane_doe@example.org"'
    told = explained(routed, turn("What is a cumulus?") | {"grammar": grammar})
    assert (told["route"], told["reason"]) == ("local", "rule")
    assert "contains a private text (email)" in told["cloud_problem"]
    assert "jane" not in json.dumps(told)


def test_a_question_to_the_user_is_foreseen_and_not_asked(asking_server: Server) -> None:
    body = turn("Hello") | {"spillover": {"fallback": "ask", "prefer": "cloud"}}
    told = explained(asking_server, body)
    assert (told["route"], told["reason"]) == ("ask", "user")
    assert told["providers"][0]["needs_consent"]
    assert httpx.get(f"{asking_server.url}/v1/consents").json()["data"] == []


def test_a_server_that_lets_nothing_leave_explains_that(server: Server) -> None:
    told = explained(server, turn("Hello"))
    assert (told["route"], told["providers"]) == ("local", [])
    assert told["allowed"]["cloud"] == "never"
    assert "nothing leaves this device" in told["cloud_problem"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models", "", "/v1/chat/completions/"])
def test_a_path_without_answers_is_a_400(server: Server, path: str) -> None:
    url = f"{server.url}{EXPLAIN}"
    answer = httpx.post(url, json=turn("Hello"), params={"path": path})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "path"


def test_what_is_wrong_with_a_request_is_its_explanation(server: Server) -> None:
    answer = httpx.post(f"{server.url}{EXPLAIN}", json=turn("Hello") | {"top_p": 7})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "top_p")
