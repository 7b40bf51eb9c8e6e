"""The fakes speak as the providers do: their own clients understand them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anthropic
import botocore.session
import cohere
import openai
import pytest
from botocore.config import Config
from google import genai
from google.genai import types

from tests.fakes.fake import Fake
from tests.fakes.script import Act, ToolCall

TEXT = 'Ünïcödé and 👩‍👩‍👧, "quotes" \\ and\r\nlines\u2028too.\n\n```py\nprint(1)\n```\n'
ACT = Act(text=TEXT, chunk_chars=3, reasoning="Let me think.")
ASKED: Any = [{"role": "user", "content": "hi"}]

Client = Callable[[Fake], Iterator[str]]


def openai_says(fake: Fake) -> Iterator[str]:
    with openai.OpenAI(base_url=f"{fake.url}/v1", api_key="key", max_retries=0) as client:
        for chunk in client.chat.completions.create(model="m", messages=ASKED, stream=True):
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""


def azure_says(fake: Fake) -> Iterator[str]:
    with openai.AzureOpenAI(
        azure_endpoint=fake.url, azure_deployment="d", api_version="2025-01-01", api_key="key"
    ) as client:
        for chunk in client.chat.completions.create(model="m", messages=ASKED, stream=True):
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""


def anthropic_says(fake: Fake) -> Iterator[str]:
    with (
        anthropic.Anthropic(base_url=fake.url, api_key="key", max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=999, messages=ASKED) as stream,
    ):
        yield from stream.text_stream


def gemini_says(fake: Fake) -> Iterator[str]:
    options = types.HttpOptions(base_url=fake.url)
    with genai.Client(api_key="key", http_options=options) as client:
        for chunk in client.models.generate_content_stream(model="gemini-9", contents="hi"):
            for candidate in chunk.candidates or ():
                parts = (candidate.content and candidate.content.parts) or ()
                yield from (part.text or "" for part in parts if not part.thought)


def cohere_says(fake: Fake) -> Iterator[str]:
    with cohere.ClientV2(base_url=fake.url, api_key="key") as client:
        for event in client.chat_stream(model="m", messages=ASKED):
            if event.type == "content-delta":
                delta: Any = event.delta
                yield delta.message.content.text or ""


def bedrock_client(fake: Fake) -> Any:
    return botocore.session.Session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=fake.url,
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def bedrock_says(fake: Fake) -> Iterator[str]:
    messages = [{"role": "user", "content": [{"text": "hi"}]}]
    with closing(bedrock_client(fake)) as client:
        answer = client.converse_stream(modelId="anthropic.model-9:0", messages=messages)
        with closing(answer["stream"]) as stream:
            for event in stream:
                yield event.get("contentBlockDelta", {}).get("delta", {}).get("text", "")


@pytest.mark.parametrize(
    "says", [openai_says, azure_says, anthropic_says, gemini_says, cohere_says, bedrock_says]
)
def test_an_official_client_reads_the_whole_text(fake: Fake, says: Client) -> None:
    fake.script(ACT)
    assert "".join(says(fake)) == TEXT


def test_openai_reads_tool_calls_and_usage(fake: Fake) -> None:
    call = ToolCall(id="call_9", name="weather", arguments='{"city": "Oslo"}')
    fake.script(Act(text="", tool_calls=(call,), finish="tool_calls"))
    with (
        openai.OpenAI(base_url=f"{fake.url}/v1", api_key="key") as client,
        client.chat.completions.stream(
            model="m", messages=ASKED, stream_options={"include_usage": True}
        ) as stream,
    ):
        answer = stream.get_final_completion()
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls is not None
    function = answer.choices[0].message.tool_calls[0].function
    assert (function.name, function.arguments) == ("weather", '{"city": "Oslo"}')
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 11


def test_anthropic_reads_tool_calls_and_usage(fake: Fake) -> None:
    call = ToolCall(id="call_9", name="weather", arguments='{"city": "Oslo"}')
    fake.script(Act(text="Look:", tool_calls=(call,), finish="tool_calls"))
    with (
        anthropic.Anthropic(base_url=fake.url, api_key="key") as client,
        client.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream,
    ):
        answer = stream.get_final_message()
    assert [block.type for block in answer.content] == ["text", "tool_use"]
    assert answer.content[1].type == "tool_use"
    assert answer.content[1].input == {"city": "Oslo"}
    assert (answer.stop_reason, answer.usage.input_tokens) == ("tool_use", 11)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ("rate_limited", anthropic.RateLimitError),
        ("auth", anthropic.AuthenticationError),
        ("overloaded", anthropic.InternalServerError),
        ("no_prefill", anthropic.BadRequestError),
    ],
)
def test_anthropic_understands_a_refusal(
    fake: Fake, refusal: Any, error: type[anthropic.APIStatusError]
) -> None:
    fake.script(Act(refusal=refusal))
    with pytest.raises(error):
        list(anthropic_says(fake))


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ("rate_limited", openai.RateLimitError),
        ("billing", openai.RateLimitError),
        ("auth", openai.AuthenticationError),
        ("context", openai.BadRequestError),
        ("overloaded", openai.InternalServerError),
    ],
)
def test_openai_understands_a_refusal(
    fake: Fake, refusal: Any, error: type[openai.APIStatusError]
) -> None:
    fake.script(Act(refusal=refusal))
    with pytest.raises(error):
        list(openai_says(fake))


def test_botocore_understands_an_exception_inside_the_stream(fake: Fake) -> None:
    fake.script(Act(error_after_chunks=2, error_kind="rate_limited"))
    with pytest.raises(botocore.exceptions.EventStreamError, match="throttlingException"):
        list(bedrock_says(fake))
