"""Text Generation Inference's API: a real server and the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.events import Failed
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire.dialect import AnswerRequest
from spillover.edge_server.wire.openai.responses.store import ResponseStore
from spillover.edge_server.wire.tgi import TgiStream, TgiWhole, Told, plan_whole
from spillover.runtime.events import Delta, Finished, TokenLogprob
from spillover.runtime.request import AnswerDefaults, GenerationRequest
from tests.edge_server.conftest import Server
from tests.edge_server.wire.encoded import TEXTS, encoded, finished
from tests.sse_reader import events_of

PROMPT = "Once upon a time there was a fox"
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def client(server: Server) -> Iterator[InferenceClient]:
    with InferenceClient(model=server.url, timeout=60) as client:
        yield client


def test_a_whole_answer_and_a_stream(client: InferenceClient) -> None:
    whole: Any = client.text_generation(PROMPT, max_new_tokens=12, details=True)
    assert whole.generated_text
    assert 0 < whole.details.generated_tokens <= 12
    assert whole.details.finish_reason in ("length", "eos_token")
    assert len(whole.details.tokens) >= whole.details.generated_tokens - 1
    *parts, last = client.text_generation(PROMPT, max_new_tokens=12, details=True, stream=True)
    assert [part.index for part in (*parts, last)] == list(range(1, len(parts) + 2))
    text = "".join(part.token.text for part in (*parts, last))
    assert last.generated_text == text
    assert last.details is not None
    assert last.details.generated_tokens > 0
    assert not any(part.details for part in parts)


def test_the_prompt_may_come_back(http: httpx.Client) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3, "return_full_text": True}}
    assert http.post("/generate", json=body).json()["generated_text"].startswith(PROMPT)
    (answer,) = http.post("/", json=body).json()
    assert answer["generated_text"].startswith(PROMPT)


def test_nothing_is_drawn_unless_it_is_asked_for(http: httpx.Client) -> None:
    """The likeliest token is taken: as there, and unlike in the other dialects."""
    parameters = {"max_new_tokens": 1, "details": True, "top_n_tokens": 1}
    body = {"inputs": PROMPT, "parameters": parameters}
    details = http.post("/generate", json=body).json()["details"]
    assert details["tokens"][0]["id"] == details["top_tokens"][0][0]["id"]


@pytest.mark.parametrize(
    ("parameters", "is_drawn"),
    [({}, False), ({"do_sample": False}, False), ({"do_sample": True}, True), ({"top_k": 5}, True),
     ({"temperature": 0.5}, True), ({"top_p": 0.5}, True), ({"typical_p": 0.5}, True),
     ({"seed": 3}, False)],
)  # fmt: skip
def test_whoever_sets_a_sampler_wants_to_sample(parameters: dict[str, Any], is_drawn: bool) -> None:
    """top_k, top_p and typical_p were ignored without do_sample."""
    body = json.dumps({"inputs": "x", "parameters": parameters}).encode()
    engine: Any = None
    asked = AnswerRequest(
        content=body, engine=engine, defaults=AnswerDefaults(), options=RouteOptions(),
        responses=ResponseStore(0),
    )  # fmt: skip
    (request,) = plan_whole(asked).requests
    assert isinstance(request, GenerationRequest)
    assert (request.sampling.temperature > 0) == is_drawn


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json_schema", "value": {"schema": SCHEMA}},
        {"type": "regex", "value": '\\{"city": "[a-z]{1,4}"\\}'},
    ],
)
def test_a_grammar_shapes_the_answer(http: httpx.Client, grammar: Any) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 60, "grammar": grammar}}
    assert set(json.loads(http.post("/generate", json=body).json()["generated_text"])) == {"city"}


def test_the_server_describes_itself(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert info["model_id"] == "storyteller"
    assert info["max_total_tokens"] > 0


def test_errors_have_the_clients_class(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        client.text_generation(PROMPT, temperature=-1.0)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ({"top_k": -7}, "parameters.top_k"),
        ({"stop": [""]}, "parameters.stop[0]"),
        ({"top_n_tokens": 99}, "parameters.top_n_tokens"),
        ({"truncate": 5}, "parameters.truncate"),
        ({"watermark": True}, "parameters.watermark"),
        ({"best_of": 3}, "parameters.best_of"),
        ({"grammar": {"type": "ebnf", "value": "x"}}, "parameters.grammar"),
        ({"grammar": 5}, "parameters.grammar"),
        ({"repetition_penalty": -1}, "parameters.repetition_penalty"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_what_is_wrong_is_named(
    http: httpx.Client, path: str, parameters: dict[str, Any], named: str
) -> None:
    answer = http.post(path, json={"inputs": PROMPT, "parameters": parameters})
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "validation"
    assert named in answer.json()["error"]


TOLD = Told(inputs="", details=True, n_top=0, seed=3)


def delta(text: str, n_tokens: int) -> Delta:
    record = TokenLogprob(token_id=7, token=b"x", logprob=-1.0, entropy=0.5)
    return Delta(text=text, token_ids=(7,) * n_tokens, logprobs=(record,) * n_tokens)


def streamed(events: list[Any]) -> list[Any]:
    encoder = TgiStream(TOLD)
    body = encoded(encoder, events)
    return [json.loads(event.data) for event in events_of(body)]


@given(st.lists(st.tuples(TEXTS, st.integers(0, 3)), max_size=6))
def test_every_text_and_token_arrives(parts: list[tuple[str, int]]) -> None:
    shown = streamed([*(delta(text, n) for text, n in parts), finished()])
    sent = "".join(text for text, _ in parts)
    assert "".join(event["token"]["text"] for event in shown) == sent
    assert shown[-1]["generated_text"] == sent
    assert shown[-1]["details"]["seed"] == 3
    n_tokens = sum(n for _, n in parts)
    assert len([event for event in shown if event["token"]["id"] == 7]) == n_tokens


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (finished(), "eos_token"),
        (finished("length"), "length"),
        (finished(stop="x"), "stop_sequence"),
    ],
)
def test_why_an_answer_ended(event: Finished, reason: str) -> None:
    assert streamed([delta("x", 1), event])[-1]["details"]["finish_reason"] == reason
    whole = TgiWhole(TOLD)
    whole.feed(delta("x", 1))
    whole.feed(event)
    assert json.loads(whole.end())["details"]["finish_reason"] == reason


@pytest.mark.parametrize(
    "event", [finished("interrupted"), finished("cancelled"), Failed(code="c", message="m")]
)
def test_an_answer_that_breaks_off_ends_with_an_error(event: Any) -> None:
    assert "error" in streamed([delta("x", 1), event, delta("y", 1)])[-1]
