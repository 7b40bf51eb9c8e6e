"""Agents of the official clients call a tool over three turns: the local model makes the first
call, a provider that takes over in the middle of the second answer makes the next one, and ends it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple, get_args

import anthropic
import jsonschema
import ollama
import openai
import pytest
from google import genai
from google.genai import types

from spillover.cloud_fallback.policy.reason import ReasonCode
from tests.edge_server.conftest import Server
from tests.edge_server.routed import routed_server
from tests.edge_server.story import ENDLESS, FUNCTION, PARAMETERS, QUESTION, WEATHER
from tests.fakes.fake import Fake
from tests.fakes.script import Act, ToolCall

SETTINGS = f"""
[policy]
switched_off = {sorted(set(get_args(ReasonCode)) - {"context", "sticky"})}
least_room_tokens = 16
local_tools = true
"""
"""Only the full context is a reason; who took over has the conversation."""

ASKED_BY_THE_CLOUD = {"city": "Rome", "days": 2}


class Call(NamedTuple):
    id: str
    name: str
    arguments: Any


class Turn(NamedTuple):
    """What one answer has come to."""

    text: str
    calls: list[Call]


class Agent(ABC):
    """One conversation of one client."""

    can_demand = True
    """Its dialect can say that a tool has to be called."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Conversations that begin with the same words are one.
        self.question = f"{QUESTION} Then ask for the weather of {type(self).__name__}."
        self.history: list[Any] = [{"role": "user", "content": self.question}]

    @abstractmethod
    def ask(self, *, demands: bool) -> Turn:
        """One streamed answer, which joins the history. *demands*: it has to be a call; otherwise
        the local model goes on until its context is full."""

    @abstractmethod
    def give(self, call: Call, result: str) -> None:
        """Add the result of *call* to the history."""


class Chat(Agent):
    def ask(self, *, demands: bool) -> Turn:
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0) as client:
            how: Any = {"tool_choice": "required"} if demands else {"extra_body": ENDLESS}
            with client.chat.completions.stream(
                model="x", messages=self.history, tools=[WEATHER], parallel_tool_calls=False, **how
            ) as stream:
                message = stream.get_final_completion().choices[0].message
        self.history.append(message.model_dump(exclude_none=True))
        calls = [
            Call(call.id, call.function.name, json.loads(call.function.arguments))
            for call in message.tool_calls or ()
        ]
        return Turn(message.content or "", calls)

    def give(self, call: Call, result: str) -> None:
        self.history.append({"role": "tool", "tool_call_id": call.id, "content": result})


class Responses(Agent):
    def ask(self, *, demands: bool) -> Turn:
        tool: Any = {"type": "function", "strict": True, **FUNCTION}
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0) as client:
            how: Any = {"tool_choice": "required"} if demands else {"extra_body": ENDLESS}
            with client.responses.stream(
                model="x", input=self.history, tools=[tool], parallel_tool_calls=False, **how
            ) as stream:
                response = stream.get_final_response()
        self.history += [item.model_dump(exclude_none=True) for item in response.output]
        calls = [
            Call(item.call_id, item.name, json.loads(item.arguments))
            for item in response.output
            if item.type == "function_call"
        ]
        return Turn(response.output_text, calls)

    def give(self, call: Call, result: str) -> None:
        self.history.append({"type": "function_call_output", "call_id": call.id, "output": result})


class Messages(Agent):
    def ask(self, *, demands: bool) -> Turn:
        tool: Any = {"name": "weather", "input_schema": PARAMETERS}
        how: Any = {"extra_body": ENDLESS}
        if demands:
            how = {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        with (
            anthropic.Anthropic(base_url=self.url, api_key="unused", max_retries=0) as client,
            client.messages.stream(
                model="x", max_tokens=900, messages=self.history, tools=[tool], **how
            ) as stream,
        ):
            message = stream.get_final_message()
        self.history.append(
            {"role": "assistant", "content": [block.model_dump() for block in message.content]}
        )
        text = "".join(block.text for block in message.content if block.type == "text")
        calls = [
            Call(block.id, block.name, block.input)
            for block in message.content
            if block.type == "tool_use"
        ]
        return Turn(text, calls)

    def give(self, call: Call, result: str) -> None:
        block = {"type": "tool_result", "tool_use_id": call.id, "content": result}
        self.history.append({"role": "user", "content": [block]})


class Ollama(Agent):
    can_demand = False

    def ask(self, *, demands: bool) -> Turn:
        options: Any = {"num_predict": -1} | ENDLESS
        text, calls = "", list[Any]()
        with closing(ollama.Client(host=self.url)) as client:
            for part in client.chat(
                model="x", messages=self.history, tools=[WEATHER], stream=True, options=options
            ):
                text += part.message.content or ""
                calls += part.message.tool_calls or ()
        made = [call.model_dump() for call in calls]
        self.history.append({"role": "assistant", "content": text, "tool_calls": made})
        return Turn(text, [Call("", c.function.name, c.function.arguments) for c in calls])

    def give(self, call: Call, result: str) -> None:
        self.history.append({"role": "tool", "tool_name": call.name, "content": result})


class Gemini(Agent):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.history = [types.Content(role="user", parts=[types.Part(text=self.question)])]

    def ask(self, *, demands: bool) -> Turn:
        declared: Any = {**FUNCTION, "parameters": None, "parameters_json_schema": PARAMETERS}
        config: Any = {"tools": [types.Tool(function_declarations=[declared])]}
        config["automatic_function_calling"] = {"disable": True}
        if demands:
            config["tool_config"] = {"function_calling_config": {"mode": "ANY"}}
        # Several calls cannot be forbidden here, and the last one may be cut.
        more = {"maxOutputTokens": 90} if demands else ENDLESS
        http_options: Any = {"base_url": self.url, "extra_body": {"generationConfig": more}}
        parts: list[types.Part] = []
        with closing(genai.Client(api_key="unused", http_options=http_options)) as client:
            for chunk in client.models.generate_content_stream(
                model="x", contents=self.history, config=config
            ):
                for candidate in chunk.candidates or ():
                    parts += (candidate.content and candidate.content.parts) or ()
        self.history.append(types.Content(role="model", parts=parts))
        made = [part.function_call for part in parts if part.function_call]
        text = "".join(part.text or "" for part in parts)
        return Turn(text, [Call(call.id or "", call.name or "", call.args) for call in made])

    def give(self, call: Call, result: str) -> None:
        part = types.Part.from_function_response(name=call.name, response={"result": result})
        assert part.function_response is not None
        part.function_response.id = call.id or None
        self.history.append(types.Content(role="user", parts=[part]))


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    """A server whose context an endless answer soon fills, and the provider that takes over."""
    fake = Fake()
    top = "warms_connections = false\nn_ctx = 768"
    server = routed_server(tmp_path_factory.mktemp("agents"), fake, top=top, tables=SETTINGS)
    yield server, fake
    assert server.stop() == 0
    fake.stop()


@pytest.mark.parametrize("client", [Chat, Responses, Messages, Ollama, Gemini])
def test_an_agent_goes_on_through_a_handoff_that_ends_with_a_call(
    routed: tuple[Server, Fake], client: type[Agent]
) -> None:
    server, fake = routed
    agent = client(server.url)
    calls: list[Call] = []
    if client.can_demand:
        _text, calls = agent.ask(demands=True)
        assert calls[0].name == "weather"
        jsonschema.validate(calls[0].arguments, PARAMETERS)
    for call in calls:
        agent.give(call, "It is sunny.")
    n_asked = len(fake.requests)
    made = ToolCall(id="call_cloud", name="weather", arguments=json.dumps(ASKED_BY_THE_CLOUD))
    fake.script(
        Act(rest=" Let me look at Rome, too.", tool_calls=(made,), finish="tool_calls"),
        Act(text="Rome has more sun."),
    )
    text, (call,) = agent.ask(demands=False)
    assert text.endswith("Let me look at Rome, too.")
    assert len(text) > 60, "the device wrote nothing of it"
    assert (call.name, call.arguments) == ("weather", ASKED_BY_THE_CLOUD)
    agent.give(call, "It rains.")
    assert agent.ask(demands=False) == Turn("Rome has more sun.", [])
    seen = json.loads(fake.requests[n_asked + 1].body)["messages"]
    ids = [made["id"] for message in seen for made in message.get("tool_calls") or ()]
    given = [message for message in seen if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in given] == ids
    assert "It rains." in given[-1]["content"]
    assert len(ids) == len(calls) + 1
