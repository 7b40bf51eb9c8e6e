"""Labelled prompts: what to ask a model, and how to tell a right answer from a wrong one."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from spillover.cloud_fallback.re2_patterns import compile_pattern
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import Message

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”']?\s+")
_SPACE = re.compile(r"\s+")
_LEAST_SENTENCE = 20
"""Characters; shorter sentences may well come twice."""


class Check(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a right answer is like: every check that is given must hold. Texts match in any case,
    and any white space matches any other."""

    equals: str | None = None
    """The whole answer, apart from white space and a full stop at its ends."""
    contains: str | tuple[str, ...] = ()
    """All of them."""
    contains_any: tuple[str, ...] = ()
    not_contains: str | tuple[str, ...] = ()
    """None of them."""
    regex: str = ""
    """RE2's dialect; found anywhere."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that follows this schema."""
    min_words: Annotated[int, Meta(ge=0)] = 0
    max_words: Annotated[int, Meta(ge=1)] | None = None
    ends: bool = False
    """The model ended its answer itself."""
    max_repeats: Annotated[int, Meta(ge=0)] | None = None
    """Most sentences that repeat an earlier one."""


class Item(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the file: *prompt* or *messages*, and *check* or *label*."""

    id: str = ""
    group: str = ""
    """The family of similar prompts that it belongs to."""
    prompt: str | None = None
    system: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    check: Check | None = None
    label: Literal["right", "wrong"] | None = None
    """Whether this model's answer is right, if that is known; it overrides *check*."""

    @property
    def conversation(self) -> tuple[Message, ...]:
        if self.messages:
            return self.messages
        assert self.prompt is not None, "read() lets no item through without either"
        user = Message(role="user", content=self.prompt)
        return (Message(role="system", content=self.system), user) if self.system else (user,)


def read(path: Path) -> list[Item]:
    """The items of a JSONL file. InvalidRequest names the line that is wrong."""
    return list(_items(path))


def _items(path: Path) -> Generator[Item]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = msgspec.json.decode(line, type=Item)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"{path}, line {number}: {error}") from error
        problem = _problem(item)
        if problem:
            raise InvalidRequest(f"{path}, line {number}: {problem}")
        yield item if item.id else msgspec.structs.replace(item, id=str(number))


def _problem(item: Item) -> str | None:
    if (item.prompt is None) == (not item.messages):
        return "give either prompt or messages"
    if item.check is None and item.label is None:
        return "give a check or a label, to tell whether the answer is right"
    if item.check is not None and item.check.regex:
        try:
            _pattern(item.check)
        except InvalidRequest as error:
            return str(error)
    return None


def is_right(item: Item, answer: str, *, ended: bool) -> bool:
    """Whether *answer* is right; *ended*: the model ended it itself."""
    if item.label is not None:
        return item.label == "right"
    assert item.check is not None
    return _holds(item.check, answer, ended)


def _holds(check: Check, answer: str, ended: bool) -> bool:
    text = _plain(answer)
    n_words = len(text.split())
    any_of = [_plain(one) for one in check.contains_any]
    return (
        (check.equals is None or text.rstrip(".! ") == _plain(check.equals).rstrip(".! "))
        and all(_plain(part) in text for part in _several(check.contains))
        and (not any_of or any(part in text for part in any_of))
        and not any(_plain(part) in text for part in _several(check.not_contains))
        and (not check.regex or _pattern(check).search(answer) is not None)
        and (check.json_schema is None or _follows(answer, check.json_schema))
        and n_words >= check.min_words
        and (check.max_words is None or n_words <= check.max_words)
        and (ended or not check.ends)
        and (check.max_repeats is None or _n_repeats(text) <= check.max_repeats)
    )


def _several(texts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else texts


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip().casefold()


def _pattern(check: Check) -> Any:
    return compile_pattern(check.regex, "check.regex")


def _n_repeats(text: str) -> int:
    sentences = [s for s in _SENTENCE_END.split(text) if len(s) >= _LEAST_SENTENCE]
    return len(sentences) - len(set(sentences))


def _follows(answer: str, schema: dict[str, Any]) -> bool:
    from spillover.runtime.structured_output.conformance import follows  # loads a library

    return follows(answer, schema)
