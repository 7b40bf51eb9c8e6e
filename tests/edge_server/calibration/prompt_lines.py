"""Words to make prompts of, and lines of labelled prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# fmt: off
NAMES = [
    "Max", "Lily", "Tom", "Anna", "Ben", "Mia", "Sam", "Lucy", "Leo", "Zoe", "Omar", "Nina", "Jack",
    "Ella", "Finn", "Ruby", "Theo", "Ivy", "Hugo", "Maya", "Pip", "Daisy", "Rosie", "Oscar",
    "Toby", "Coco", "Milo", "Luna", "Biscuit", "Pepper", "Ginger", "Patch",
]
ANIMALS = [
    "dog", "cat", "rabbit", "bear", "frog", "fox", "mouse", "duck", "lion", "owl", "pig", "horse",
    "elephant", "turtle", "bird",
]
THINGS = [
    "kite", "ball", "tree", "river", "moon", "garden", "boat", "cake", "hat", "stone", "bell",
    "star", "drum", "lamp",
]
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
]
CAPITALS = {
    "France": "Paris", "Sweden": "Stockholm", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi",
    "Egypt": "Cairo", "Portugal": "Lisbon", "Norway": "Oslo", "Cuba": "Havana", "Greece": "Athens",
    "Austria": "Vienna", "Ireland": "Dublin", "Canada": "Ottawa", "Finland": "Helsinki",
}
SUBJECTS = [
    "autumn leaves", "a train", "the sea", "winter", "a candle", "an old clock", "rain",
    "a mountain", "my cat", "coffee", "the city at night", "spring", "a broken cup", "silence",
]
SPELLED = [
    "garden", "planet", "window", "bottle", "silver", "market", "pencil", "dragon", "winter",
    "button",
]
# fmt: on
STORY: dict[str, Any] = {"ends": True, "min_words": 60, "max_repeats": 1}
Line = dict[str, Any]


def story(prompt: str, *contains: str, **more: Any) -> Line:
    return {"prompt": prompt, "check": STORY | {"contains": contains} | more}


def question(prompt: str, *any_of: str, **more: Any) -> Line:
    check = more | ({"contains_any": any_of} if any_of else {})
    return {"prompt": prompt, "check": check, "max_tokens": 200}


def one_word(prompt: str, *any_of: str) -> Line:
    """A question whose answer is a word: it may not be a part of another word."""
    words = "|".join(any_of)
    return {"prompt": prompt, "check": {"regex": rf"(?i)\b(?:{words})\b"}, "max_tokens": 200}


def talk(turns: Iterable[str], check: dict[str, Any], max_tokens: int = 120) -> Line:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return {"messages": messages, "check": check, "max_tokens": max_tokens}
