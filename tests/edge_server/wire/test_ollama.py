"""Ollama's API: a real server and the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from hypothesis import given

from spillover.cloud_fallback.events import Failed
from spillover.edge_server.wire.ollama.answer import LineStream, LineWhole, Shape, chat_part
from spillover.runtime.events import Delta, ReasoningDelta, ToolCallDelta
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.story import QUESTION, STORY
from tests.edge_server.wire.encoded import SAID, encoded, finished
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens

FEW: Any = {"temperature": 0, "num_predict": 40}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def llama(server: Server) -> Iterator[ollama.Client]:
    with closing(ollama.Client(host=server.url)) as client:
        yield client


def test_a_whole_answer_and_a_stream(llama: ollama.Client) -> None:
    whole = llama.chat(model="storyteller", messages=STORY, options=FEW)
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert whole.done
    assert whole.done_reason in ("stop", "length")
    assert 0 < (whole.eval_count or 0) <= 40
    assert (whole.prompt_eval_count or 0) > 5
    assert (whole.total_duration or 0) >= (whole.eval_duration or 0) > 0
    *parts, last = llama.chat(model="storyteller", messages=STORY, options=FEW, stream=True)
    assert "".join(part.message.content or "" for part in parts)
    assert not any(part.done for part in parts)
    assert last.done
    assert (last.eval_count or 0) > 0


def test_a_prompt_is_answered_whole_and_streamed(llama: ollama.Client) -> None:
    whole = llama.generate(model="x", prompt=QUESTION, system="Be brief.", options=FEW)
    assert whole.response
    parts = list(llama.generate(model="x", prompt="Once", raw=True, options=FEW, stream=True))
    assert "".join(part.response or "" for part in parts)
    assert parts[-1].done


def test_a_stream_is_the_default_and_has_an_object_in_each_line(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json={"messages": STORY, "options": FEW})
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    objects = [json.loads(line) for line in answer.text.splitlines()]
    assert [part["done"] for part in objects] == [False] * (len(objects) - 1) + [True]


def test_without_a_prompt_the_model_is_only_loaded(llama: ollama.Client) -> None:
    loaded = llama.generate(model="x", prompt="")
    assert (loaded.response, loaded.done_reason) == ("", "load")
    assert llama.chat(model="x", messages=[], keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(("path", "field"), [("chat", "messages"), ("generate", "prompt")])
def test_null_is_no_prompt(http: httpx.Client, path: str, field: str) -> None:
    """Go's clients write an empty list as null, which was a 400."""
    assert http.post(f"/api/{path}", json={field: None}).json()["done_reason"] == "load"


def test_a_schema_or_json_shapes_the_answer(llama: ollama.Client) -> None:
    options: Any = {"num_predict": 90, "temperature": 0}
    shaped = llama.chat(model="x", messages=STORY, format=SCHEMA, options=options)
    assert set(json.loads(shaped.message.content or "")) == {"city"}
    text = llama.generate(model="x", prompt=QUESTION, format="json", options=options).response
    assert text is not None
    assert text.startswith("{")


def test_tools_and_their_results_are_taken(llama: ollama.Client) -> None:
    history: Any = [
        *STORY,
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Brno"}}}]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]  # fmt: skip
    answer = llama.chat(model="x", messages=history, tools=[WEATHER], options=FEW)
    assert answer.message.content or answer.message.tool_calls


def test_logprobs_where_they_are_asked_for(llama: ollama.Client) -> None:
    answer = llama.chat(model="x", messages=STORY, options=FEW, logprobs=True, top_logprobs=2)
    assert answer.logprobs
    assert all(len(record.top_logprobs or ()) == 2 for record in answer.logprobs)


def test_the_model_is_described(llama: ollama.Client) -> None:
    assert [model.model for model in llama.list().models] == ["storyteller", "storyteller-onnx"]
    shown = llama.show("storyteller:latest")
    kind = (shown.modelinfo or {})["general.architecture"]
    assert (shown.modelinfo or {})[f"{kind}.context_length"] > 0
    assert {"completion", "tools"} <= set(shown.capabilities or ())
    assert shown.details is not None
    assert shown.details.parameter_size == "5.77M"
    (running,) = llama.ps().models
    assert running.context_length
    assert llama.pull("storyteller").status == "success"


def test_the_version_is_a_bare_number(http: httpx.Client) -> None:
    version = http.get("/api/version").json()["version"]
    assert all(part.isdigit() for part in version.split("."))


def test_errors_have_the_clients_class(llama: ollama.Client) -> None:
    for call in (lambda: llama.show("gpt-9"), lambda: llama.delete("storyteller")):
        with pytest.raises(ollama.ResponseError):
            call()
    with pytest.raises(ollama.ResponseError, match="num_ctx 1000000 is more than") as caught:
        llama.chat(model="x", messages=STORY, options={"num_ctx": 1_000_000})
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("chat", {"options": {"temperature": -1}}, "options.temperature"),
        ("chat", {"options": {"mirostat": 2}}, "options.mirostat"),
        ("chat", {"options": {"stop": [""]}}, "options.stop[0]"),
        ("chat", {"options": {"num_predict": "many"}}, "options.num_predict"),
        ("chat", {"format": 3}, "format"),
        ("chat", {"format": {"type": "thing"}}, "format"),
        ("chat", {"messages": [{"role": "user", "images": ["x"]}]}, "messages[0].images"),
        ("chat", {"messages": [{"role": "bard", "content": "x"}]}, "messages[0].role"),
        ("chat", {"top_logprobs": 99, "logprobs": True}, "top_logprobs"),
        ("generate", {"template": "{{ .Prompt }}"}, "template"),
        ("generate", {"context": [1, 2]}, "context"),
        ("generate", {"images": ["x"]}, "images"),
    ],
)
def test_what_is_wrong_is_named(
    http: httpx.Client, path: str, fields: dict[str, Any], named: str
) -> None:
    ask = {"messages": STORY, "prompt": "x", "options": {"num_predict": 1}}
    answer = http.post(f"/api/{path}", json=ask | fields)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def test_options_that_say_how_to_load_a_model_are_ignored(http: httpx.Client) -> None:
    options = {**FEW, "num_gpu": 99, "num_thread": 4, "use_mmap": True, "num_ctx": 64,
               "num_predict": 2.0, "num_keep": 5, "mirostat": 0}  # fmt: skip
    body = {"messages": STORY, "options": options, "keep_alive": "5m", "stream": False}
    answer = http.post("/api/chat", json=body)
    assert answer.status_code == 200
    assert answer.json()["eval_count"] <= 2


SHAPE = Shape(part=chat_part, model="here")


def streamed(events: list[Any]) -> list[Any]:
    encoder = LineStream(SHAPE)
    body = encoded(encoder, events)
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def test_calls_are_sent_when_they_are_complete() -> None:
    events: list[Any] = [
        ReasoningDelta(text="hm"),
        ToolCallDelta(index=0, id="a", name="weather"),
        ToolCallDelta(index=0, arguments='{"city":'),
        ToolCallDelta(index=0, arguments='"Brno"}'),
        ToolCallDelta(index=1, id="b", name="time", arguments='{"zo'),
        finished("tool_calls"),
    ]
    thought, first, second, last = streamed(events)
    assert thought["message"]["thinking"] == "hm"
    (call,) = first["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "weather", "arguments": {"city": "Brno"}}
    assert second["message"]["tool_calls"][0]["function"]["arguments"] == {}
    assert last["done_reason"] == "stop"
    assert last["eval_duration"] == 3_500_000
    whole = LineWhole(SHAPE)
    for event in events:
        whole.feed(event)
    message = json.loads(whole.end())["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "time"]
    assert message["thinking"] == "hm"


@given(SAID)
def test_every_text_arrives_as_it_was(parts: list[tuple[Any, str]]) -> None:
    lines = streamed([kind(text=text) for kind, text in parts] + [finished()])
    for kind, field in ((Delta, "content"), (ReasoningDelta, "thinking")):
        sent = "".join(text for other, text in parts if other is kind)
        assert "".join(line["message"].get(field, "") for line in lines) == sent


@pytest.mark.parametrize(
    "event", [finished("interrupted"), finished("cancelled"), Failed(code="c", message="m")]
)
def test_an_answer_that_breaks_off_ends_with_an_error(event: Any) -> None:
    assert "error" in streamed([Delta(text="x"), event, Delta(text="y")])[-1]


def test_a_silent_stream_shows_life_only_where_it_is_wanted() -> None:
    encoder = LineStream(SHAPE)
    assert encoder.silence() == b""
    encoder.keep_alive = "event"
    assert json.loads(encoder.silence())["message"]["content"] == ""


def test_an_answer_that_changes_its_writer_is_one_answer(fake: Fake, tmp_path: Path) -> None:
    rest = "A cloud tells the story. The end."
    fake.script(Act(text=rest, usage=Tokens(prompt=100, completion=20)))
    rule = '[[policy.rules]]\nname = "clouds"\nwords = ["cumulus"]\n'
    server = routed_server(tmp_path, fake, tables=rule)
    try:
        asked: Any = [{"role": "user", "content": "Tell me of a cumulus."}]
        with closing(ollama.Client(host=server.url)) as client:
            *parts, last = client.chat(model="x", messages=asked, options=FEW, stream=True)
        assert "".join(part.message.content or "" for part in parts) == rest
        assert last.done
        assert last.model == "cloud-model"
    finally:
        server.stop()
