"""A conversation as it is typed: its messages, how to answer them, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.commands.request_values import owner_of, read_value
from spillover.edge_server.errors import ConfigError
from spillover.runtime.events import Usage
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling


class SavedConversation(Struct, frozen=True, kw_only=True):
    """The content of a file that /save writes."""

    messages: tuple[Message, ...]
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    max_tokens: int | None = None


class Conversation:
    """Turns of user and assistant in order, after at most one system message."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.turns: list[Message] = []
        self.sampling = Sampling()
        self.max_tokens: int | None = None
        self.usage: Usage | None = None
        """Of the last answer."""
        self._files: set[Path] = set()

    def request(self) -> GenerationRequest:
        """The request for the next answer. Raises InvalidRequest."""
        return GenerationRequest(
            messages=self._messages(), sampling=self.sampling, max_tokens=self.max_tokens
        ).checked()

    def say(self, text: str) -> None:
        """The user's turn."""
        self.turns.append(Message(role="user", content=text))

    def answered(self, text: str, usage: Usage | None) -> None:
        """The assistant's turn; without any text the question is taken back too."""
        self.usage = usage
        if text:
            self.turns.append(Message(role="assistant", content=text))
        else:
            self.take_back_question()

    def take_back_answer(self) -> bool:
        """Drop the last answer, so that its question stands last; whether there was one."""
        if len(self.turns) < 2:
            return False
        del self.turns[-1]
        self.usage = None
        return True

    def take_back_question(self) -> str:
        """Drop the question that stands last, and return it."""
        return self.turns.pop().content

    def clear(self) -> None:
        """Forget the turns, keep the system message and how to answer."""
        self.turns.clear()
        self.usage = None

    def set(self, name: str, text: str) -> None:
        """Set a field of the sampling, or max_tokens, from text. Raises ConfigError."""
        value: Any = read_value(owner_of(name), name, text, f"/set {name}")
        if name == "max_tokens":
            self.max_tokens = value
        else:
            self.sampling = msgspec.structs.replace(self.sampling, **{name: value})

    def save(self, path: Path) -> None:
        """Write the conversation to *path*; a file of something else is never overwritten.

        Raises ConfigError.
        """
        if path.exists() and path not in self._files:
            raise ConfigError(f"{path} exists already: choose another name")
        saved = SavedConversation(
            messages=self._messages(), sampling=self.sampling, max_tokens=self.max_tokens
        )
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(saved)) + b"\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        self._files.add(path)

    def load(self, path: Path) -> None:
        """Go on with the conversation in *path*. Raises ConfigError and changes nothing then."""
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=SavedConversation)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path} is not a saved conversation: {error}") from error
        system, turns = _split_system(saved.messages)
        if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise ConfigError(f"{path}: user and assistant do not take turns in it")
        self.system, self.turns = system, list(turns)
        self.sampling, self.max_tokens, self.usage = saved.sampling, saved.max_tokens, None
        self._files.add(path)

    def _messages(self) -> tuple[Message, ...]:
        system = [Message(role="system", content=self.system)] if self.system else []
        return (*system, *self.turns)


def _split_system(messages: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages
