"""Prompts of text completions: texts, token ids, both in a row, or several of them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.engine import TextEngine
from spillover.runtime.errors import ContextOverflow, InvalidRequest

MAX_PROMPTS = 128
MAX_TOKEN_ID = 2**31 - 1


class Prompt(Struct, frozen=True):
    """Texts and runs of token ids, in order."""

    parts: tuple[str | tuple[int, ...], ...]

    @property
    def plain(self) -> str | tuple[int, ...] | None:
        """The prompt as the engine takes it, when it is one text or only ids."""
        return self.parts[0] if len(self.parts) == 1 else None


def prompts_of(value: Any, param: str = "prompt") -> tuple[Prompt, ...]:
    """The prompts in a body's field, or a 400 that names the place that is wrong.

    A list that holds a number is one prompt (token ids, with texts between them perhaps); any
    other list is several prompts.
    """
    if not isinstance(value, list):
        return (_one(value, param),)
    if any(_is_id(part) for part in value):
        return (_one(value, param),)
    if not value:
        raise bad_request("the prompt is empty: give a text or at least one token", param)
    if len(value) > MAX_PROMPTS:
        raise bad_request(f"{len(value)} prompts are more than {MAX_PROMPTS}", param)
    return tuple(_one(prompt, f"{param}[{i}]") for i, prompt in enumerate(value))


def _is_id(value: Any) -> bool:
    return type(value) is int  # JSON's true is a bool, which is an int to isinstance


def _one(value: Any, param: str) -> Prompt:
    match value:
        case str():
            return Prompt((value,))
        case list() if value:
            return Prompt(_parts(value, param))
        case {"prompt_string": str(text), **others}:
            # llama.cpp's form for prompts with pictures and sounds.
            if others.get("multimodal_data"):
                raise bad_request("this model reads text only", f"{param}.multimodal_data")
            return Prompt((text,))
        case _:
            raise bad_request("a prompt is a text or an array of token ids", param)


def _parts(values: list[Any], param: str) -> tuple[str | tuple[int, ...], ...]:
    parts: list[str | tuple[int, ...]] = []
    ids: list[int] = []
    for i, value in enumerate(values):
        if isinstance(value, str):
            if ids:
                parts.append(tuple(ids))
                ids = []
            parts.append(value)
        elif _is_id(value) and 0 <= value <= MAX_TOKEN_ID:
            ids.append(value)
        else:
            raise bad_request("this is neither a token id nor a text", f"{param}[{i}]")
    if ids:
        parts.append(tuple(ids))
    return tuple(parts)


def tokens_of(engine: TextEngine, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of *prompt*; what the tokenizer puts in front goes in front of a first text."""
    tokens: list[int] = []
    for i, part in enumerate(prompt.parts):
        if isinstance(part, str):
            tokens += engine.tokenize(part, add_special=i == 0, parse_special=True)
        else:
            tokens += part
    return tuple(tokens)


def text_of(engine: TextEngine, prompt: Prompt) -> str:
    """The text of *prompt*."""
    return "".join(part if isinstance(part, str) else _text(engine, part) for part in prompt.parts)


def _text(engine: TextEngine, ids: tuple[int, ...]) -> str:
    try:
        return engine.detokenize(ids).decode("utf-8", "replace")
    except InvalidRequest as error:
        raise bad_request(str(error), "prompt") from error


def engine_prompts(
    engine: TextEngine, prompts: tuple[Prompt, ...]
) -> tuple[str | tuple[int, ...], ...]:
    """The prompts as the engine takes them. Of several each is checked first, so that an error in
    a late one shows before any of them is begun."""
    if len(prompts) == 1 and (plain := prompts[0].plain) is not None:
        return (plain,)
    checked = []
    card = engine.card
    for i, prompt in enumerate(prompts):
        tokens = tokens_of(engine, prompt)
        if not tokens:
            raise bad_request("the prompt is empty: give at least one token", f"prompt[{i}]")
        if len(tokens) >= card.n_ctx:
            raise ContextOverflow(len(tokens), card.n_ctx, card.name, f"prompt[{i}]")
        checked.append(tokens)
    return tuple(checked)
