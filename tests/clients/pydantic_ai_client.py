"""Pydantic AI streams, counts, gets an answer of a type, and raises its own errors."""

from __future__ import annotations

from asked import QUESTION, TOO_LONG, URL, Weather, raised
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(
    "storyteller", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="unused")
)
agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 90})

answer = agent.run_stream_sync(QUESTION)
parts = list(answer.stream_text(delta=True, debounce_by=None))
assert len(parts) > 1
assert "".join(parts).strip() == answer.get_output().strip()
assert 0 < answer.usage.output_tokens <= 90

typed = Agent(model, output_type=Weather, model_settings={"temperature": 0, "max_tokens": 200})
found = typed.run_sync(QUESTION).output  # by a call of a tool that it demands
assert isinstance(found, Weather)

error = raised(ModelHTTPError, lambda: agent.run_sync(TOO_LONG))
assert error.status_code == 400
assert error.body["code"] == "context_length_exceeded"
