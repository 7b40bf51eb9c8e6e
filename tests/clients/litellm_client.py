"""LiteLLM streams in three dialects, counts, calls a tool, and raises its own errors."""

from __future__ import annotations

from functools import partial

import litellm
from asked import QUESTION, TOO_LONG, URL, Weather, raised

MESSAGES = [{"role": "user", "content": QUESTION}]
PROVIDERS = {
    "openai/storyteller": f"{URL}/v1",
    "anthropic/storyteller": URL,
    "ollama_chat/storyteller": URL,
}
FUNCTION = {"name": "weather", "parameters": Weather.model_json_schema()}
FORCED = {
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
}

for model, base in PROVIDERS.items():
    ask = partial(
        litellm.completion, model=model, api_base=base, api_key="unused", messages=MESSAGES,
        temperature=0, max_tokens=90, num_retries=0,
    )  # fmt: skip
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), model
    usages = [c.usage for c in chunks if getattr(c, "usage", None)]
    assert len(usages) == 1, (model, usages)
    assert 0 < usages[0].completion_tokens <= 90
    assert ask().choices[0].message.content
    too_long = [{"role": "user", "content": TOO_LONG}]
    kinds = (litellm.BadRequestError, litellm.APIConnectionError)
    error = raised(kinds, partial(ask, messages=too_long))
    assert "context" in str(error) or "prompt is too long" in str(error), error
    if not model.startswith("ollama"):  # whose API cannot demand a call
        (call,) = ask(**FORCED).choices[0].message.tool_calls
        assert call.function.name == "weather"
        Weather.model_validate_json(call.function.arguments)
