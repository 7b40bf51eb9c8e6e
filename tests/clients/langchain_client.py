"""LangChain's chat model of OpenAI streams, counts, calls a tool, and raises its own errors."""

from __future__ import annotations

from functools import reduce
from operator import add

import openai
from asked import QUESTION, TOO_LONG, URL, Weather, raised
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url=f"{URL}/v1", api_key="unused", model="storyteller", temperature=0, max_tokens=90,
    stream_usage=True, max_retries=0,
)  # fmt: skip

answer = reduce(add, model.stream(QUESTION))
assert answer.text
# It adds up the usages of all chunks: more than one would be too much.
assert 0 < answer.usage_metadata["output_tokens"] <= 90
assert (
    answer.usage_metadata["input_tokens"] == model.invoke(QUESTION).usage_metadata["input_tokens"]
)

caller = model.bind_tools([Weather], tool_choice="Weather")
for made in (caller.invoke(QUESTION), reduce(add, caller.stream(QUESTION))):
    (call,) = made.tool_calls
    assert call["name"] == "Weather"
    Weather.model_validate(call["args"])

error = raised(openai.BadRequestError, lambda: model.invoke(TOO_LONG))
assert error.code == "context_length_exceeded"
