"""What a fake says: the text of an answer, in chunks."""

from __future__ import annotations

from msgspec import Struct

from tests.fakes.asked import Asked
from tests.fakes.script import Act, Finish


class Reply(Struct, frozen=True, kw_only=True):
    """An answer's chunks and how it ends; *stop* is the stop string that ended it."""

    chunks: tuple[str, ...]
    finish: Finish
    stop: str | None = None


def reply(act: Act, asked: Asked) -> Reply:
    """The answer to *asked*, within its stop strings and its number of tokens.

    A chunk counts as a token.
    """
    text = "".join(act.chunks) if act.chunks is not None else _text(act, asked)
    text = act.tagged_reasoning + text
    text, stop = _stopped(text, asked.stops)
    chunks = act.chunks if act.chunks is not None and stop is None else _cut(text, act)
    if asked.max_tokens is not None and len(chunks) > asked.max_tokens:
        return Reply(chunks=chunks[: asked.max_tokens], finish="length")
    return Reply(chunks=chunks, finish="stop" if stop else act.finish, stop=stop)


def _text(act: Act, asked: Asked) -> str:
    if asked.dialect == "tgi":
        return act.text if act.ignores_prefill else _rest_of_prompt(act, asked.turns[-1].text)
    partial = asked.partial
    if partial is None:
        return act.text
    rest = _rest(act, partial, asked.anchor)
    anew = act.text if act.rest is None else partial + act.rest
    if asked.is_prefill:
        return anew if act.ignores_prefill else rest
    anchor = asked.anchor
    said: dict[str, str] = {
        "anchor": anchor + rest,
        "no_anchor": rest,
        "restart": anew,
        "rewrite": act.rewrite,
        "preamble": act.preamble + anchor + rest,
        "whitespace": anchor.replace(" ", "\n ") + rest,
        "quoted": f"“{anchor}”{rest}",
        "fenced": f"```\n{anchor}{rest}\n```\n",
        "capitals": anchor.upper() + rest,
        "misspelt": _misspelt(anchor) + rest,
        "nothing": "",
    }
    return said[act.manner]


def _misspelt(anchor: str) -> str:
    """*anchor* with another letter in its middle."""
    place = next(i for i in range(len(anchor) // 2, len(anchor)) if anchor[i : i + 2].isalpha())
    return anchor[:place] + ("q" if anchor[place] != "q" else "z") + anchor[place + 1 :]


def _rest(act: Act, partial: str, anchor: str) -> str:
    """What follows *partial* in the whole answer."""
    if act.rest is not None:
        return act.rest
    if act.text.startswith(partial):
        return act.text[len(partial) :]
    place = act.text.rfind(anchor) if anchor else -1
    return act.text[place + len(anchor) :] if place >= 0 else act.text


def _rest_of_prompt(act: Act, prompt: str) -> str:
    """What follows the part of the answer that a raw prompt ends with."""
    for length in range(min(len(prompt), len(act.text)), 3, -1):
        if prompt.endswith(act.text[:length]):
            return act.text[length:] if act.rest is None else act.rest
    return act.text


def _stopped(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    place, stop = min(found)
    return text[:place], stop


def _cut(text: str, act: Act) -> tuple[str, ...]:
    size = act.chunk_chars or max(1, len(text))
    if act.halves_pairs:
        units = text.encode("utf-16-le")
        starts = range(0, len(units), 2 * size)
        pieces = (units[start : start + 2 * size] for start in starts)
        return tuple(piece.decode("utf-16-le", "surrogatepass") for piece in pieces)
    return tuple(text[start : start + size] for start in range(0, len(text), size))
