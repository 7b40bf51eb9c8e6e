"""Images: a provider that sees them answers, or nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.edge_server.conftest import Server
from tests.edge_server.routed import Answer, follow, lines, routed_server
from tests.edge_server.wire.dialect_bodies import (
    CHAT_IMAGE,
    GEMINI,
    QUESTION,
    URL,
    WITH_IMAGES,
    turn,
    typed,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act
from tests.pictures import base64_of, data_url, gif
from tests.waiting import wait_until

SEEN = "It is a red pixel."
SHOWN: Any = [{"role": "user", "content": typed("text", CHAT_IMAGE)}]
LINK = "https://pictures.example/fox.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    """A server whose one provider sees images."""
    fake = Fake()
    server = routed_server(tmp_path_factory.mktemp("place"), fake, fields="vision = true")
    yield server, fake
    assert server.stop() == 0
    fake.stop()


@pytest.fixture
def seeing(place: tuple[Server, Fake]) -> Server:
    return place[0]


@pytest.fixture
def seen_by(place: tuple[Server, Fake]) -> Fake:
    """The provider of that server; nobody has asked it yet."""
    place[1].reset()
    place[1].script(Act(text=SEEN))
    return place[1]


def all_texts(response: httpx.Response, name: str) -> str:
    """The text of a stream of the dialect *name*."""
    if name.startswith("ollama"):
        parts = [json.loads(line) for line in response.text.splitlines()]
    else:
        parts = [data for _, data in lines(response) if data is not None]
    return "".join(WITH_IMAGES[name].stream(part) for part in parts)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_a_provider_answers_about_an_image_in_every_dialect(
    seeing: Server, seen_by: Fake, name: str
) -> None:
    asking = WITH_IMAGES[name]
    url = seeing.url + asking.path
    answer = httpx.post(url, json={**asking.body, **asking.image}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert all_texts(answer, name) == SEEN
    route = answer.headers["X-Spillover-Route"]
    assert route == 'cloud;provider="fake-1";reason=modality'
    (message,) = json.loads(seen_by.requests[-1].body)["messages"]
    words = [{"type": "text", "text": QUESTION}]
    # Ollama's images belong to a message, not to a place in it.
    wanted = [CHAT_IMAGE, *words] if name.startswith("ollama") else [*words, CHAT_IMAGE]
    assert message == {"role": "user", "content": wanted}


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_without_a_provider_an_image_is_a_400_that_says_what_to_do(
    server: Server, name: str
) -> None:
    asking = WITH_IMAGES[name]
    answer = httpx.post(server.url + asking.path, json={**asking.body, **asking.image}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert "messages[0] holds an image, and storyteller reads only text" in answer.text
    assert "let a provider that sees images answer" in answer.text


@pytest.mark.parametrize(
    "more", [{"spillover": {"only": "local_only"}}, {"model": "private"}, {"n": 2}]
)
def test_an_image_of_a_request_that_stays_here_stays_here(
    seeing: Server, seen_by: Fake, more: dict[str, Any]
) -> None:
    body = {"messages": SHOWN, **more}
    answer = httpx.post(f"{seeing.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "holds an image" in answer.json()["error"]["message"]
    assert seen_by.record.accepted == 0


@pytest.mark.parametrize(
    ("top", "fields", "tables"),
    [
        ('fallback = "never"', "vision = true", ""),
        ("", "", ""),
        ("", "vision = true", '[policy]\nswitched_off = ["modality"]\n'),
    ],
)
def test_nothing_leaves_that_may_not_or_that_nobody_would_see(
    fake: Fake, tmp_path: Path, top: str, fields: str, tables: str
) -> None:
    fallback = "never" if top else "auto"
    server = routed_server(tmp_path, fake, fallback=fallback, fields=fields, tables=tables)
    for wish in ({}, {"prefer": "cloud"}):
        answer = follow(server, messages=SHOWN, spillover=wish)
        assert answer.error["type"] == "invalid_request_error"
    if not top and not tables:
        assert "set vision = true" in answer.error["message"]
    assert fake.record.accepted == 0
    assert server.stop() == 0


def test_the_first_provider_that_sees_is_asked(fake: Fake, make_fake: Any, tmp_path: Path) -> None:
    second: Fake = make_fake()
    second.script(Act(text=SEEN))
    provider = f"""
[[provider]]
name = "seeing"
dialect = "openai"
model = "gpt-4.1-mini"
server = "openai"
base_url = "{second.url}/v1"
key_variable = "FAKE_KEY"
is_local_network = false
"""
    server = routed_server(tmp_path, fake, tables=provider)
    answer = follow(server, messages=SHOWN)
    assert answer.text == SEEN
    assert answer.of("provider_failed")[0]["provider"]["provider"] == "fake-1"
    assert fake.record.accepted == 0
    assert server.stop() == 0


def test_the_later_turns_of_a_conversation_with_an_image_stay_with_who_sees_it(
    seeing: Server, seen_by: Fake
) -> None:
    turns = [
        *SHOWN,
        {"role": "assistant", "content": "A pixel."},
        {"role": "user", "content": "Which colour?"},
    ]
    answer = follow(seeing, messages=turns)
    assert answer.text == SEEN
    assert json.loads(seen_by.requests[-1].body)["messages"][0] == SHOWN[0]


def test_the_question_says_that_images_leave(fake: Fake, tmp_path: Path) -> None:
    fake.script(Act(text=SEEN))
    server = routed_server(tmp_path, fake, fallback="ask", fields="vision = true")
    url = f"{server.url}/v1/chat/completions"

    def decide(granted: bool) -> None:
        wait_until(lambda: bool(httpx.get(f"{server.url}/v1/consents").json()["data"]))
        (pending,) = httpx.get(f"{server.url}/v1/consents").json()["data"]
        assert pending["reason"] == "modality"
        assert pending["reason_in_words"] == "the local model does not see images"
        assert pending["n_images"] == 1
        assert "redaction does not look into them" in pending["privacy"]["warning"]
        place = f"{server.url}/v1/consents/{pending['id']}"
        assert httpx.post(place, json={"granted": granted}).status_code == 200

    with ThreadPoolExecutor(1) as pool:
        for granted in (False, True):
            words = "And?" if granted else QUESTION  # a no holds for its conversation
            content = [{"type": "text", "text": words}, CHAT_IMAGE]
            asked = turn(content) | {"spillover": {"fallback": "ask"}}
            answer = pool.submit(httpx.post, url, json=asked, timeout=60)
            decide(granted)
            reply = answer.result()
            if granted:
                assert reply.json()["choices"][0]["message"]["content"] == SEEN
            else:
                assert reply.status_code == 400
                assert "did not consent" in reply.json()["error"]["message"]
                assert fake.record.accepted == 0
    assert server.stop() == 0


def test_a_provider_that_is_gone_is_an_error_that_passes(fake: Fake, tmp_path: Path) -> None:
    """Not a 400: the same request may be answered in a minute."""
    server = routed_server(tmp_path, fake, fields="vision = true")
    fake.refuse_connections()
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": SHOWN}, timeout=60)
    assert answer.status_code == 503
    assert server.stop() == 0


def test_a_link_is_passed_on_and_never_followed(
    seeing: Server, seen_by: Fake, make_fake: Any
) -> None:
    bait: Fake = make_fake()
    link = f"{bait.url}/fox.png"
    content = [{"type": "image_url", "image_url": link}]
    assert follow(seeing, messages=[{"role": "user", "content": content}]).text == SEEN
    (part,) = json.loads(seen_by.requests[-1].body)["messages"][0]["content"]
    assert part == {"type": "image_url", "image_url": {"url": link}}
    assert bait.record.accepted == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64,JVBERi0xLjcKJYGBgYE=", "none of PNG, JPEG, WebP and GIF"),
        ("data:image/png;base64,%%%", "is not base64"),
        ("data:image/png,x", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        (None, "must be a text"),
    ],
)
def test_what_is_no_image_is_a_400_that_names_the_part(
    seeing: Server, seen_by: Fake, url: str | None, message: str
) -> None:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = follow(seeing, messages=[{"role": "user", "content": content}])
    assert message in answer.error["message"]
    assert answer.error["param"] == "messages[0].content[1].image_url"
    assert seen_by.record.accepted == 0


def test_an_image_has_the_type_that_its_bytes_tell(seeing: Server, seen_by: Fake) -> None:
    """Clients name any type, and providers refuse what is not true."""
    wrong = {"type": "image_url", "image_url": {"url": data_url(gif(), "image/png")}}
    follow(seeing, messages=[{"role": "user", "content": [wrong]}])
    (part,) = json.loads(seen_by.requests[-1].body)["messages"][0]["content"]
    assert part["image_url"]["url"] == data_url(gif(), "image/gif")


def test_names_with_underscores_and_links_in_geminis_dialect(seeing: Server, seen_by: Fake) -> None:
    blob = {"mime_type": "image/gif", "data": base64_of(gif())}
    link = {"mime_type": "image/png", "file_uri": LINK}
    body = {"contents": [{"parts": [{"inline_data": blob}, {"file_data": link}]}]}
    answer = httpx.post(f"{seeing.url}{GEMINI}:generateContent", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    urls = [
        part["image_url"]["url"]
        for part in json.loads(seen_by.requests[-1].body)["messages"][0]["content"]
    ]
    assert urls == [data_url(gif(), "image/gif"), LINK]


def test_a_stored_response_keeps_its_image(seeing: Server, seen_by: Fake) -> None:
    image = {"type": "input_image", "image_url": URL}
    first = {"input": [{"role": "user", "content": [image]}]}
    url = f"{seeing.url}/v1/responses"
    answer = httpx.post(url, json=first, timeout=60).json()
    later = {"input": "And now?", "previous_response_id": answer["id"]}
    assert httpx.post(url, json=later, timeout=60).json()["status"] == "completed"
    shown = json.loads(seen_by.requests[-1].body)["messages"][0]["content"]
    assert shown == [CHAT_IMAGE]
    listed = httpx.get(f"{url}/{answer['id']}/input_items").json()["data"]
    assert listed[0]["content"] == [image]


def test_an_answer_about_an_image_that_breaks_off_is_never_finished_here(
    seeing: Server, seen_by: Fake
) -> None:
    seen_by.script(Act(text="It is a red pixel, and", no_terminal=True))
    answer: Answer = follow(seeing, messages=SHOWN)
    assert answer.finish == ["interrupted"]
    assert all(event["to"]["origin"] == "cloud" for event in answer.of("handoff"))


def test_an_image_in_a_turn_of_the_assistant_is_a_400(seeing: Server) -> None:
    turns = [{"role": "assistant", "content": [CHAT_IMAGE]}, *SHOWN]
    answer = follow(seeing, messages=turns)
    assert "only a turn of the user or a tool" in answer.error["message"]


def test_counting_tokens_leaves_images_out(seeing: Server, seen_by: Fake) -> None:
    asking = WITH_IMAGES["anthropic"]
    url = f"{seeing.url}/v1/messages/count_tokens"
    counts = {
        httpx.post(url, json={**asking.body, **more}, timeout=60).text
        for more in ({}, asking.image)
    }
    assert len(counts) == 1
    assert seen_by.record.accepted == 0
