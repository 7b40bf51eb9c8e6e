"""One question in every dialect of the endpoint, with and without an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tests.pictures import base64_of, data_url, png

QUESTION = "What do you see?"
IMAGE = png()
URL = data_url(IMAGE)
DATA = base64_of(IMAGE)
BLOB = {"mimeType": "image/png", "data": DATA}
GEMINI = "/v1beta/models/x"


class Asking(Struct, frozen=True):
    """How a dialect asks."""

    path: str
    body: dict[str, Any]
    stream: Callable[[Any], str]
    """The text that a part of its stream adds."""
    image: dict[str, Any] = {}
    """What of *body* is replaced to show an image; empty: the dialect has none."""


def turn(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def typed(kind: str, image: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": kind, "text": QUESTION}, image]


def _chat(part: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in part.get("choices", ()))


def _gemini(part: Any) -> str:
    return "".join(
        piece.get("text", "") for each in part["candidates"] for piece in each["content"]["parts"]
    )


CHAT_IMAGE = {"type": "image_url", "image_url": {"url": URL}}
ASKINGS: dict[str, Asking] = {
    "openai": Asking(
        "/v1/chat/completions",
        {**turn(QUESTION), "stream": True},
        _chat,
        turn(typed("text", CHAT_IMAGE)),
    ),
    "responses": Asking(
        "/v1/responses",
        {"input": QUESTION, "stream": True},
        lambda part: part["delta"] if part["type"] == "response.output_text.delta" else "",
        {
            "input": [
                {
                    "role": "user",
                    "content": typed("input_text", {"type": "input_image", "image_url": URL}),
                }
            ]
        },
    ),
    "anthropic": Asking(
        "/v1/messages",
        {**turn(QUESTION), "stream": True, "max_tokens": 40},
        lambda part: part.get("delta", {}).get("text", ""),
        turn(
            typed(
                "text",
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": DATA},
                },
            )
        ),
    ),
    "ollama": Asking(
        "/api/chat",
        turn(QUESTION),
        lambda part: part["message"]["content"],
        {"messages": [{"role": "user", "content": QUESTION, "images": [DATA]}]},
    ),
    "ollama generate": Asking(
        "/api/generate",
        {"prompt": QUESTION},
        lambda part: part["response"],
        {"prompt": QUESTION, "images": [DATA]},
    ),
    "gemini": Asking(
        f"{GEMINI}:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]},
        _gemini,
        {"contents": [{"role": "user", "parts": [{"text": QUESTION}, {"inlineData": BLOB}]}]},
    ),
    "cohere": Asking(
        "/v2/chat",
        {**turn(QUESTION), "stream": True},
        lambda part: (
            part["delta"]["message"]["content"]["text"] if part["type"] == "content-delta" else ""
        ),
        turn(typed("text", CHAT_IMAGE)),
    ),
    "llama.cpp": Asking(
        "/completion",
        {"prompt": QUESTION, "stream": True},
        lambda part: part["content"],
    ),
    "tgi": Asking(
        "/generate_stream",
        {"inputs": QUESTION},
        lambda part: part["token"]["text"],
    ),
}
WITH_IMAGES = {name: asking for name, asking in ASKINGS.items() if asking.image}
