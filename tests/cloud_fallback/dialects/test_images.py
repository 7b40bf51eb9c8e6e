"""Images in each provider's own form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillover.cloud_fallback.policy.affinity import conversation_key
from spillover.cloud_fallback.privacy.redactor import Redactor
from spillover.cloud_fallback.providers.vision import sees_images
from spillover.cloud_fallback.spending.prices import TOKENS_PER_IMAGE, estimated_prompt_tokens
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.image import Image, image_of
from spillover.runtime.request import GenerationRequest, Message, Tool, ToolCall
from tests.cloud_fallback.dialects.conversations import ask, body_of
from tests.pictures import base64_of, gif, png

PNG, GIF = base64_of(png()), base64_of(gif())
LINK = "https://pictures.example/fox.png"
TEXT = "First\nsecond\nlast"
TWO = Message(
    role="user",
    content=TEXT,
    images=(image_of(PNG, at=len("First")), image_of(GIF, at=len("First\nsecond"))),
)
LINKED = Message(role="user", content="What is this?", images=(Image(url=LINK, at=13),))
CALL = ToolCall(id="call12345", name="look", arguments="{}")
TOOL_TURNS = (
    Message(role="user", content="Look."),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="a fox", tool_call_id="call12345", images=(image_of(PNG, at=5),)),
)
SEEING: dict[str, str] = {
    "openai": "gpt-4.1-mini",
    "azure": "gpt-4.1-mini",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "cohere": "command-a-vision-07-2025",
    "bedrock": "anthropic.claude-haiku-4-5-20251001-v1:0",
}


def sent(dialect: str, *messages: Message) -> Any:
    request = ask(messages, tools=(Tool(name="look"),))
    return body_of(dialect, request, model=SEEING[dialect], vision=True)


def in_chat(data: str, kind: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


def in_claude(data: str, kind: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": f"image/{kind}", "data": data}
    return {"type": "image", "source": source}


def in_gemini(data: str, kind: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": f"image/{kind}", "data": data}}


def in_bedrock(data: str, kind: str) -> dict[str, Any]:
    return {"image": {"format": kind, "source": {"bytes": data}}}


def parts(text: dict[str, str], image: Any) -> list[dict[str, Any]]:
    """The turn TWO: each text is *text* with another content."""
    (name,) = [key for key, value in text.items() if value == "?"]
    first, second, last = ({**text, name: said} for said in TEXT.split("\n"))
    return [first, image(PNG, "png"), second, image(GIF, "gif"), last]


@pytest.mark.parametrize("dialect", SEEING)
def test_images_stand_between_the_texts_where_they_stood(dialect: str) -> None:
    body = sent(dialect, TWO)
    typed = {"type": "text", "text": "?"}
    if dialect in ("gemini", "vertex"):
        assert body["contents"] == [{"role": "user", "parts": parts({"text": "?"}, in_gemini)}]
        return
    (turn,) = body["messages"]
    if dialect == "bedrock":
        wanted = parts({"text": "?"}, in_bedrock)
    else:
        wanted = parts(typed, in_claude if dialect == "anthropic" else in_chat)
    assert turn == {"role": "user", "content": wanted}


@pytest.mark.parametrize("dialect", SEEING)
def test_a_link_is_passed_on_or_refused_but_never_followed(dialect: str) -> None:
    if dialect in ("gemini", "vertex", "bedrock"):
        with pytest.raises(InvalidRequest, match="takes an image itself, not its URL"):
            sent(dialect, LINKED)
        return
    (turn,) = sent(dialect, LINKED)["messages"]
    image = turn["content"][1]
    if dialect == "anthropic":
        assert image == {"type": "image", "source": {"type": "url", "url": LINK}}
    else:
        assert image == {"type": "image_url", "image_url": {"url": LINK}}


@pytest.mark.parametrize("dialect", SEEING)
def test_an_image_that_a_tool_returned_reaches_the_model(dialect: str) -> None:
    body = sent(dialect, *TOOL_TURNS)
    if dialect in ("gemini", "vertex"):
        result, image = body["contents"][-1]["parts"]
        assert "functionResponse" in result
        assert image == in_gemini(PNG, "png")
    elif dialect in ("anthropic", "bedrock"):
        (block,) = body["messages"][-1]["content"]
        content = block.get("toolResult", block)["content"]
        wanted = in_claude if dialect == "anthropic" else in_bedrock
        assert content[0]["text"] == "a fox"
        assert content[1:] == [wanted(PNG, "png")]
    else:
        *_, result, after = body["messages"]
        assert (result["role"], result["content"]) == ("tool", "a fox")
        assert after["role"] == "user"
        assert after["content"][1:] == [in_chat(PNG, "png")]


def test_a_result_of_several_calls_is_not_torn_apart() -> None:
    """OpenAI wants all results right behind the calls."""
    calls = tuple(ToolCall(id=f"call1234{i}", name="look", arguments="{}") for i in range(2))
    turns = [
        Message(role="user", content="Look."),
        Message(role="assistant", content="", tool_calls=calls),
        *(
            Message(role="tool", content="", tool_call_id=c.id, images=(image_of(PNG),))
            for c in calls
        ),
        Message(role="user", content="And?"),
    ]
    roles = [turn["role"] for turn in sent("openai", *turns)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"]


@pytest.mark.parametrize("dialect", [*SEEING, "tgi"])
def test_a_model_that_sees_none_gets_none(dialect: str) -> None:
    with pytest.raises(InvalidRequest, match="set vision = true"):
        body_of(dialect, ask((TWO,)), model="blind", vision=False)


def test_who_sees_is_told_by_the_name_unless_the_owner_says_it() -> None:
    for model in SEEING_NAMES.split():
        assert sees_images(model), model
    for model in BLIND_NAMES.split():
        assert not sees_images(model), model
    assert body_of("openai", ask((TWO,)), model="blind", vision=True)


SEEING_NAMES = """
gpt-4o gpt-4o-mini gpt-4.1-mini gpt-5 gpt-5-mini gpt-4-turbo o1 o3 o4-mini claude-3-haiku-20240307
claude-haiku-4-5 claude-sonnet-5 anthropic.claude-sonnet-4-5-v1:0 gemini-2.5-flash gemini-3-pro
command-a-vision-07-2025 c4ai-aya-vision-8b amazon.nova-lite-v1:0 pixtral-12b mistral-small-2506
meta-llama/Llama-4-Scout meta-llama/Llama-3.2-11B-Vision-Instruct llama3.2-vision:11b
google/gemma-3-4b-it gemma3:4b gemma-4-e2b Qwen/Qwen2.5-VL-7B-Instruct qwen2.5vl:7b Qwen3-VL-4B
llava:7b minicpm-v openbmb/MiniCPM-V-4 HuggingFaceTB/SmolVLM-Instruct zai-org/GLM-4.5V grok-4
"""
BLIND_NAMES = """
gpt-3.5-turbo gpt-4 o1-mini o3-mini gpt-oss-20b claude-2.1 claude-instant-1 anthropic.claude-v2:1
command-a-03-2025 command-r amazon.nova-micro-v1:0 mistral-7b mistral-large-2407
meta-llama/Llama-3.1-8B llama-3.3-70b Llama-3.2-3B google/gemma-2-9b gemma-3-1b-it gemma-3-270m
Qwen/Qwen3-30B-A3B qwen3-coder deepseek-chat deepseek-reasoner cloud-model kimi-k2 glm-4.6
phi-3-mini grok-3 codestral-latest SmolLM2-135M
"""


def test_an_image_counts_as_much_as_a_large_one_may_cost() -> None:
    bare = GenerationRequest(messages=(Message(role="user", content=TEXT),))
    more = estimated_prompt_tokens(ask((TWO,))) - estimated_prompt_tokens(bare)
    assert more == 2 * TOKENS_PER_IMAGE


def test_redaction_leaves_images_where_they_stood() -> None:
    """Its placeholders are shorter or longer than what they stand for. A private text that also
    stands in the base64 of an image is no leak: it used to keep the request on the device."""
    data = base64_of(png() + b"\x00" * 30)
    secret = data[40:48]
    content = f"My password is {secret} here\nMail jane.doe@example.org\nand this"
    places = (len(content.split("\n")[0]), content.index("\nand"))
    images = tuple(image_of(data, at=at) for at in places)
    request = GenerationRequest(messages=(Message(role="user", content=content, images=images),))
    message = Redactor().redact(request).request.messages[0]
    assert "jane" not in message.content
    assert [message.content[image.at :].split("\n")[1] for image in message.images] == [
        message.content.split("\n")[1],
        "and this",
    ]
    assert [image.data for image in message.images] == [data, data]


def test_conversations_that_begin_with_different_images_are_different() -> None:
    keys = {
        conversation_key((Message(role="user", content="?", images=images),))
        for images in ((), (image_of(PNG),), (image_of(GIF),))
    }
    assert len(keys) == 3


def test_no_text_of_an_image_goes_into_a_bare_turn() -> None:
    assert PNG not in json.dumps(body_of("openai", ask((Message(role="user", content="?"),))))
