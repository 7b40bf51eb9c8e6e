"""Prompts of completions: texts, token ids, both in a row, several of them, or a gap to fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.engine import FimTokens, TextEngine
from spillover.runtime.errors import ContextOverflow, InvalidRequest

MAX_PROMPTS = 128
MAX_PARTS = 256
"""Texts and runs of token ids in all prompts of a request: the worker is asked for each text."""
MAX_TOKEN_ID = 2**31 - 1
MAX_FILES = 256


class SentPrompt(Struct, frozen=True):
    """Texts and runs of token ids, in order."""

    parts: tuple[str | tuple[int, ...], ...]

    @property
    def plain(self) -> str | tuple[int, ...] | None:
        """The prompt as the engine takes it, if it is one text or only ids."""
        return self.parts[0] if len(self.parts) == 1 else None


def prompts_of(
    value: Any, param: str = "prompt", *, most: int = MAX_PROMPTS, most_parts: int = MAX_PARTS
) -> tuple[SentPrompt, ...]:
    """The prompts in a body's field, or a 400 that names the wrong place.

    A list that holds a number is one prompt (token ids, perhaps with texts between them); any
    other list is several prompts.
    """
    prompts = tuple(_prompts(value, param, most))
    if sum(len(prompt.parts) for prompt in prompts) > most_parts:
        raise bad_request(f"{param}: at most {most_parts} texts and runs of token ids", param)
    return prompts


def _prompts(value: Any, param: str, most: int) -> Iterator[SentPrompt]:
    if not isinstance(value, list) or any(_is_id(part) for part in value):
        yield _one(value, param)
        return
    if not value:
        raise bad_request("the prompt is empty: give a text or at least one token", param)
    if len(value) > most:
        raise bad_request(f"{param}: at most {most} prompts at once", param)
    for i, prompt in enumerate(value):
        yield _one(prompt, f"{param}[{i}]")


def _is_id(value: Any) -> bool:
    return type(value) is int  # JSON's true is a bool, which is an int to isinstance


def _one(value: Any, param: str) -> SentPrompt:
    match value:
        case str():
            return SentPrompt((value,))
        case list() if value:
            return SentPrompt(_parts(value, param))
        case {"prompt_string": str(text), **others}:
            # llama.cpp's prompts with pictures and sounds.
            if others.get("multimodal_data"):
                raise bad_request("this model reads only text", f"{param}.multimodal_data")
            return SentPrompt((text,))
        case _:
            raise bad_request(f"{param} must be a text or an array of token ids", param)


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
            raise bad_request(f"{param}[{i}] must be a token id or a text", f"{param}[{i}]")
    if ids:
        parts.append(tuple(ids))
    return tuple(parts)


def tokens_of(engine: TextEngine, prompt: SentPrompt) -> tuple[int, ...]:
    """Token ids of *prompt*; the tokenizer's special tokens go before a first text."""
    tokens: list[int] = []
    for i, part in enumerate(prompt.parts):
        if isinstance(part, str):
            tokens += engine.tokenize(part, add_special=i == 0, parse_special=True)
        else:
            tokens += part
    return tuple(tokens)


def text_of(engine: TextEngine, prompt: SentPrompt) -> str:
    """The text of *prompt*."""
    return "".join(part if isinstance(part, str) else _text(engine, part) for part in prompt.parts)


def _text(engine: TextEngine, ids: tuple[int, ...]) -> str:
    try:
        return engine.detokenize(ids).decode("utf-8", "replace")
    except InvalidRequest as error:
        raise bad_request(str(error), "prompt") from error


def engine_prompts(
    engine: TextEngine, prompts: tuple[SentPrompt, ...]
) -> tuple[str | tuple[int, ...], ...]:
    """The prompts as the engine takes them. Several are all checked first, so that an error in a
    late one shows before any is begun."""
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


class ExtraFile(Struct, frozen=True):
    """A file that the model may look at."""

    text: str
    filename: str = "tmp"


Files = Annotated[tuple[ExtraFile, ...], Meta(max_length=MAX_FILES)]


def infill_prompt(
    engine: TextEngine, prefix: str, suffix: str, *, files: Files = (), begun: str = ""
) -> tuple[int, ...]:
    """Token ids: prefix, suffix, and *begun*, the beginning of what goes between.

    A 400 if the model has no tokens for it. Order and tokens follow Bavarian et al., 2022, and
    for repositories Hui et al., 2024 (Qwen2.5-Coder).
    """
    fim = engine.card.fim
    if fim is None:
        raise bad_request(f"{engine.name} has no tokens for filling in the middle", "suffix")

    def ids(text: str) -> tuple[int, ...]:
        # Control tokens that a file spells out stay text.
        return engine.tokenize(text, add_special=False, parse_special=False) if text else ()

    return (
        *engine.tokenize("", add_special=True, parse_special=False),
        *_files(ids, fim, files),
        fim.prefix,
        *ids(prefix),
        fim.suffix,
        *ids(suffix),
        fim.middle,
        *ids(begun),
    )


def _files(ids: Callable[[str], tuple[int, ...]], fim: FimTokens, files: Files) -> Iterator[int]:
    """Other files, as a repository if the model has tokens for that."""
    if not files:
        return
    if fim.repo is None or fim.file is None:
        for file in files:
            yield from ids(f"\n\n--- {file.filename} ---\n\n{file.text}")
        return
    yield fim.repo
    yield from ids("repository\n")
    for file in files:
        yield fim.file
        yield from ids(f"{file.filename}\n{file.text}")
    yield fim.file
    yield from ids("filename\n")
