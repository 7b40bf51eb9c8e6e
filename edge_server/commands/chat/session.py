"""The state of a chat: its messages, how to answer them, and its file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.commands.options import parse_field
from spillover.edge_server.errors import ConfigError
from spillover.runtime.events import Usage
from spillover.runtime.files.json_file import write_json
from spillover.runtime.request import AnswerDefaults, GenerationRequest, Message
from spillover.runtime.sampling import Sampling


class SavedChat(Struct, frozen=True, kw_only=True):
    """The content of a file that /save writes."""

    messages: tuple[Message, ...]
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    max_tokens: int | None = None


class ChatSession:
    """Turns of user and assistant in order, after at most one system message."""

    def __init__(self, system: str = "", defaults: AnswerDefaults | None = None) -> None:
        defaults = defaults or AnswerDefaults()
        self.system = system
        self.turns: list[Message] = []
        self.sampling = defaults.sampling
        self.max_tokens = defaults.max_tokens
        self.usage: Usage | None = None
        """Of the last answer."""
        self._replaced = ""
        """The answer that is being asked for again."""
        self._files: set[Path] = set()

    def request(self) -> GenerationRequest:
        """The request for the next answer. Raises InvalidRequest."""
        return GenerationRequest(
            messages=self._messages(), sampling=self.sampling, max_tokens=self.max_tokens
        ).checked()

    def add_question(self, text: str) -> None:
        self.turns.append(Message(role="user", content=text))

    def add_answer(self, text: str, usage: Usage | None) -> None:
        """Append an answer; in place of an empty one that which it was to replace. Without that the
        question is taken back."""
        self.usage = usage
        text, self._replaced = text or self._replaced, ""
        if text:
            self.turns.append(Message(role="assistant", content=text))
        else:
            self.take_back_question()

    def take_back_answer(self) -> bool:
        """Drop the last answer, so that its question comes last; whether there was one."""
        if len(self.turns) < 2:
            return False
        del self.turns[-1]
        self.usage = None
        return True

    def ask_again(self) -> bool:
        """Take the last answer back, until another one has text; whether there was one."""
        answer = self.turns[-1].content if self.turns else ""
        self._replaced = answer if self.take_back_answer() else ""
        return bool(self._replaced)

    def take_back_question(self) -> str:
        """Drop the question that comes last, and return it."""
        return self.turns.pop().content

    def clear(self) -> None:
        """Forget the turns; keep the system message and how to answer."""
        self.turns.clear()
        self.usage = None

    def set(self, name: str, text: str) -> None:
        """Set a field of the sampling, or max_tokens, from text. Raises ConfigError."""
        value: Any = parse_field(_struct_with(name), name, text, f"/set {name}")
        if name == "max_tokens":
            self.max_tokens = value
        else:
            self.sampling = msgspec.structs.replace(self.sampling, **{name: value})

    def save(self, path: Path) -> None:
        """Write the chat to *path*, but never over a file of something else.

        Raises ConfigError.
        """
        if path.exists() and path not in self._files:
            raise ConfigError(f"{path} exists already: choose another name")
        if not path.parent.is_dir():
            raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}")
        saved = SavedChat(
            messages=self._messages(), sampling=self.sampling, max_tokens=self.max_tokens
        )
        try:
            write_json(path.resolve(), saved, indent=2)  # which only the user can read
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        self._files.add(path)

    def load(self, path: Path) -> None:
        """Continue the chat saved in *path*. Raises ConfigError and then changes nothing."""
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=SavedChat)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not a saved conversation: {error}") from error
        system, turns = _split_system(saved.messages)
        if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise ConfigError(f"{path}: its user and assistant messages do not alternate")
        self.system, self.turns = system, list(turns)
        self.sampling, self.max_tokens, self.usage = saved.sampling, saved.max_tokens, None
        self._files.add(path)

    def _messages(self) -> tuple[Message, ...]:
        system = [Message(role="system", content=self.system)] if self.system else []
        return (*system, *self.turns)


def _struct_with(name: str) -> type[Struct]:
    """The struct that has the field *name*, which says how to answer. Raises ConfigError."""
    known = [field.name for field in msgspec.structs.fields(Sampling)]
    if name in known:
        return Sampling
    if name == "max_tokens":
        return GenerationRequest
    near = difflib.get_close_matches(name, [*known, "max_tokens"], n=1)
    advice = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}, max_tokens"
    raise ConfigError(f"answers have no setting {name}: {advice}")


def _split_system(messages: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages
