"""What the tests ask the bundled model for: the story that it tells best, and a tool."""

from __future__ import annotations

from typing import Any

from tests import answers

QUESTION = answers.STORY
STORY: Any = [{"role": "user", "content": QUESTION}]
ENDLESS: Any = {"ignore_eos": True}
"""Ours: the local model never ends by itself."""

PARAMETERS: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": PARAMETERS,
}
WEATHER: Any = {"type": "function", "function": FUNCTION}
