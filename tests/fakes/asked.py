"""Reads a request of any dialect: who spoke, and whether an answer is to be continued."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import msgspec
from msgspec import Struct

DialectName: TypeAlias = Literal[
    "openai", "azure", "anthropic", "gemini", "cohere", "tgi", "bedrock"
]
_PATHS: tuple[tuple[DialectName, str], ...] = (
    ("azure", r"/openai/.*chat/completions$"),
    ("openai", r"/chat/completions$"),
    ("anthropic", r"/messages$"),
    ("gemini", r"/models/[^/]+:streamGenerateContent$"),
    ("cohere", r"/v2/chat$"),
    ("tgi", r"/generate_stream$"),
    ("bedrock", r"/model/[^/]+/converse-stream$"),
)
_SHORTEST_ANCHOR = 4


class Turn(Struct, frozen=True):
    """One turn: *role* is "user", "assistant", "system" or "tool"."""

    role: str
    text: str


class Asked(Struct, frozen=True, kw_only=True):
    """A request, whatever dialect it came in."""

    dialect: DialectName
    model: str
    turns: tuple[Turn, ...]
    stops: tuple[str, ...]
    max_tokens: int | None
    wants_usage: bool = True

    @property
    def is_prefill(self) -> bool:
        """The last turn is an assistant's, to be continued."""
        return bool(self.turns) and self.turns[-1].role == "assistant"

    @property
    def partial(self) -> str | None:
        """The unfinished answer that the request shows, in either way; None: it shows none."""
        if self.is_prefill:
            return self.turns[-1].text
        return self.turns[-2].text if self.anchor else None

    @property
    def anchor(self) -> str:
        """The end of the unfinished answer that the last turn quotes; "" if it quotes none."""
        if len(self.turns) < 2 or self.turns[-2].role != "assistant":
            return ""
        partial, notice = self.turns[-2].text.rstrip(), self.turns[-1].text
        for length in range(len(partial), _SHORTEST_ANCHOR - 1, -1):
            if partial[-length:] in notice:
                return partial[-length:].lstrip()
        return ""


def dialect_of(path: str) -> DialectName | None:
    """The dialect that a request's path belongs to."""
    plain = path.partition("?")[0]
    return next((name for name, pattern in _PATHS if re.search(pattern, plain)), None)


def read(dialect: DialectName, path: str, body: bytes) -> Asked:
    """The request in *body*."""
    asked: dict[str, Any] = msgspec.json.decode(body)
    return _READERS[dialect](dialect, path, asked)


def _read_openai(dialect: DialectName, path: str, asked: dict[str, Any]) -> Asked:
    stop = asked.get("stop") or asked.get("stop_sequences") or ()
    limit = asked.get("max_tokens") or asked.get("max_completion_tokens")
    usage = (asked.get("stream_options") or {}).get("include_usage", dialect == "cohere")
    return Asked(
        dialect=dialect,
        model=asked.get("model", ""),
        turns=tuple(Turn(m["role"], _text(m.get("content"))) for m in asked["messages"]),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        max_tokens=limit,
        wants_usage=usage,
    )


def _read_anthropic(dialect: DialectName, path: str, asked: dict[str, Any]) -> Asked:
    return Asked(
        dialect=dialect,
        model=asked["model"],
        turns=tuple(Turn(m["role"], _text(m["content"])) for m in asked["messages"]),
        stops=tuple(asked.get("stop_sequences") or ()),
        max_tokens=asked["max_tokens"],
    )


def _read_gemini(dialect: DialectName, path: str, asked: dict[str, Any]) -> Asked:
    config = asked.get("generationConfig") or {}
    roles = {"model": "assistant", "user": "user"}
    return Asked(
        dialect=dialect,
        model=re.findall(r"/models/([^/:]+):", path)[0],
        turns=tuple(
            Turn(roles.get(c.get("role", "user"), "user"), _text(c["parts"]))
            for c in asked["contents"]
        ),
        stops=tuple(config.get("stopSequences") or ()),
        max_tokens=config.get("maxOutputTokens"),
    )


def _read_bedrock(dialect: DialectName, path: str, asked: dict[str, Any]) -> Asked:
    config = asked.get("inferenceConfig") or {}
    return Asked(
        dialect=dialect,
        model=unquote(re.findall(r"/model/([^/]+)/", path)[0]),
        turns=tuple(Turn(m["role"], _text(m["content"])) for m in asked["messages"]),
        stops=tuple(config.get("stopSequences") or ()),
        max_tokens=config.get("maxTokens"),
    )


def _read_tgi(dialect: DialectName, path: str, asked: dict[str, Any]) -> Asked:
    config = asked.get("parameters") or {}
    return Asked(
        dialect=dialect,
        model="tgi",
        turns=(Turn("user", asked["inputs"]),),
        stops=tuple(config.get("stop") or ()),
        max_tokens=config.get("max_new_tokens"),
    )


def _text(content: Any) -> str:
    """A text, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


_READERS = {
    "openai": _read_openai,
    "azure": _read_openai,
    "cohere": _read_openai,
    "anthropic": _read_anthropic,
    "gemini": _read_gemini,
    "bedrock": _read_bedrock,
    "tgi": _read_tgi,
}
