"""What must hold in every dialect, as its official client sees it: an answer that changes its
writer in the middle is one answer, and a client that leaves frees its slot."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeAlias

import anthropic
import cohere
import httpx
import ollama
import openai
import pytest
from google import genai
from huggingface_hub import InferenceClient

from tests.answers import REST
from tests.edge_server.conftest import Server
from tests.edge_server.places import all_idle
from tests.edge_server.routed import routed_server
from tests.edge_server.story import ENDLESS, QUESTION, STORY
from tests.fakes.fake import Fake
from tests.fakes.script import Act
from tests.waiting import wait_until

PATIENT = """
[policy]
switched_off = ["low_confidence", "repetition"]
least_room_tokens = 16
"""
"""Only the full context is a reason."""

Texts: TypeAlias = Generator[str]
"""The texts of one stream, as a client shows them; closing it leaves."""


def chat(url: str) -> Texts:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
        client.chat.completions.create(
            model="x", messages=STORY, stream=True, extra_body=ENDLESS
        ) as stream,
    ):
        for chunk in stream:
            yield from (choice.delta.content or "" for choice in chunk.choices)


def completions(url: str) -> Texts:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
        client.completions.create(
            model="x", prompt="Once upon a time", max_tokens=900, stream=True, extra_body=ENDLESS
        ) as stream,
    ):
        for chunk in stream:
            yield from (choice.text for choice in chunk.choices)


def responses(url: str) -> Texts:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
        client.responses.create(
            model="x", input=QUESTION, stream=True, extra_body=ENDLESS
        ) as found,
    ):
        for event in found:
            if event.type == "response.output_text.delta":
                yield event.delta


def messages(url: str) -> Texts:
    with (
        anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as client,
        client.messages.create(
            model="x", max_tokens=900, messages=STORY, stream=True, extra_body=ENDLESS
        ) as stream,
    ):
        for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text


def ollamas(url: str) -> Texts:
    options: Any = {"num_predict": -1} | ENDLESS
    with (
        closing(ollama.Client(host=url)) as client,
        closing(client.chat(model="x", messages=STORY, stream=True, options=options)) as parts,  # type: ignore[type-var]  # it says Iterator, and is a generator
    ):
        for part in parts:
            yield part.message.content or ""


def gemini(url: str) -> Texts:
    http_options: Any = {"base_url": url, "extra_body": {"generationConfig": ENDLESS}}
    with (
        closing(genai.Client(api_key="unused", http_options=http_options)) as client,
        closing(client.models.generate_content_stream(model="x", contents=QUESTION)) as chunks,  # type: ignore[type-var]  # as above
    ):
        for chunk in chunks:
            yield chunk.text or ""


def coheres(url: str) -> Texts:
    with httpx.Client(timeout=60) as http:
        client = cohere.ClientV2(api_key="unused", base_url=url, httpx_client=http)
        more: Any = {"additional_body_parameters": ENDLESS}
        with closing(client.chat_stream(model="x", messages=STORY, request_options=more)) as events:  # type: ignore[type-var]  # as above
            for event in events:
                if event.type == "content-delta":
                    found: Any = event.delta
                    yield found.message.content.text or ""


def tgi(url: str) -> Texts:
    with InferenceClient(model=url, timeout=60) as client:
        # Without our own fields: its parameters have no room for them.
        stream = client.text_generation("Once upon a time", max_new_tokens=900, stream=True)
        with closing(stream) as texts:
            yield from texts


DIALECTS: dict[str, Callable[[str], Texts]] = {
    client.__name__: client
    for client in (chat, completions, responses, messages, ollamas, gemini, coheres, tgi)
}
EVERY = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    """A server whose context is full before a story has ended, and the provider that takes over."""
    fake = Fake()
    top = "warms_connections = false\nn_ctx = 96"
    server = routed_server(tmp_path_factory.mktemp("small"), fake, top=top, tables=PATIENT)
    yield server, fake
    assert server.stop() == 0
    fake.stop()


@EVERY
def test_an_answer_that_changes_its_writer_in_the_middle_is_one_answer(
    small: tuple[Server, Fake], dialect: str
) -> None:
    server, fake = small
    fake.script(Act(text=REST, rest=REST))
    texts = list(DIALECTS[dialect](server.url))
    text = "".join(texts)
    assert text.endswith(REST.lstrip()), text
    assert text.count(REST.strip()) == 1
    assert len(text) > len(REST) + 20, "the device wrote nothing of it"
    assert len(texts) > 5
    (last, *_) = httpx.get(f"{server.url}/v1/handoffs").json()["data"]
    assert last["reason"] == "context"
    assert [leg["origin"] for leg in last["by_leg"]] == ["local", "cloud"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose context takes far longer to fill than a test waits."""
    server = Server(tmp_path_factory.mktemp("large"), "--n-ctx", "131072", "--parallel", "2")
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "tgi"])
def test_a_client_that_leaves_frees_its_slot(large: Server, dialect: str) -> None:
    texts = DIALECTS[dialect](large.url)
    assert any(texts)
    texts.close()
    with httpx.Client(base_url=large.url, timeout=60) as http:
        wait_until(lambda: all_idle(http))
