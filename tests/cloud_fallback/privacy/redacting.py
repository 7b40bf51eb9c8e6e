"""Requests to look through, and what becomes of them."""

from __future__ import annotations

from typing import Any

from spillover.cloud_fallback.privacy.redactor import Redacted, Redactor
from spillover.cloud_fallback.privacy.restorer import Restorer
from spillover.runtime.request import GenerationRequest, Message, Role

REDACTOR = Redactor()
MAIL, CARD, KEY = "john@example.com", "4111 1111 1111 1111", "sk-abcdefghijklmnop123456"


def said(role: Role, content: str, **more: Any) -> Message:
    return Message(role=role, content=content, **more)


def conversation(*contents: str, **more: Any) -> GenerationRequest:
    """A user's turn, an assistant's, a user's, …"""
    roles: list[Role] = ["user", "assistant"]
    messages = tuple(said(roles[i % 2], content) for i, content in enumerate(contents))
    return GenerationRequest(messages=messages, **more)


def contents(redacted: Redacted) -> list[str]:
    return [message.content for message in redacted.request.messages]


def restored(restorer: Restorer, text: str) -> str:
    return restorer.feed(text) + restorer.flush()
