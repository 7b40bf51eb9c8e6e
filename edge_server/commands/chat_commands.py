"""The /commands of the chat: what they are called, and what each does to the conversation."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from spillover.edge_server.commands.conversation import Conversation
from spillover.edge_server.config.setting_type import show
from spillover.edge_server.errors import ConfigError
from spillover.runtime.sampling import Sampling

_OTHER_EXITS = ("quit", "bye", "q")
"""What other programs call it."""


class Reply(Struct, frozen=True):
    """What the chat says to a command, and does then."""

    text: str = ""
    ask: bool = False
    """Ask the model for an answer to the last question."""
    leave: bool = False


class ChatCommand(Struct, frozen=True):
    usage: str
    help: str
    act: Callable[[Conversation, str], Reply]


def is_command(line: str) -> bool:
    """Whether *line* is a command; // begins a message that starts with a slash."""
    return line.startswith("/") and not line.startswith("//")


def message_of(line: str) -> str:
    """The message in a line that is no command."""
    return line[1:] if line.startswith("//") else line


def obey(conversation: Conversation, line: str) -> Reply:
    """Carry out "/name argument". Raises ConfigError, whose message is for the user."""
    name, _, argument = line[1:].strip().partition(" ")
    name = "exit" if name in _OTHER_EXITS else name
    commands = chat_commands()
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        guess = f"did you mean /{near[0]}?" if near else "/help lists all commands"
        raise ConfigError(f"there is no command /{name}: {guess}")
    return commands[name].act(conversation, argument.strip())


def chat_commands() -> dict[str, ChatCommand]:
    """Every command by its name."""
    table = (
        ChatCommand("/help", "show the commands", _help),
        ChatCommand("/new", "begin a new conversation", _new),
        ChatCommand("/system [TEXT]", "show or set the system message (- removes it)", _system),
        ChatCommand("/set [NAME VALUE]", "show or set how to answer: /set temperature 0.5", _set),
        ChatCommand("/undo", "take back the last question and its answer", _undo),
        ChatCommand("/retry", "take back the last answer and ask again", _retry),
        ChatCommand("/tokens", "show how full the context is", _tokens),
        ChatCommand("/save FILE", "write the conversation to a file", _save),
        ChatCommand("/load FILE", "go on with the conversation in a file", _load),
        ChatCommand("/exit", "leave; Ctrl-D does too", _exit),
    )
    return {command.usage.split()[0][1:]: command for command in table}


def _help(_conversation: Conversation, _argument: str) -> Reply:
    lines = [f"{command.usage:<20}{command.help}" for command in chat_commands().values()]
    lines += [
        "",
        'A line that ends in \\ goes on in the next one; """ begins and ends a text of many lines.',
        "Ctrl-C stops an answer. A message that begins with a slash is written with two.",
    ]
    return Reply("\n".join(lines))


def _new(conversation: Conversation, _argument: str) -> Reply:
    conversation.clear()
    return Reply("a new conversation")


def _system(conversation: Conversation, argument: str) -> Reply:
    if not argument:
        return Reply(f"system message: {conversation.system or 'none'}")
    conversation.system = "" if argument == "-" else argument
    return Reply("system message removed" if argument == "-" else "system message set")


def _set(conversation: Conversation, argument: str) -> Reply:
    name, _, value = argument.partition(" ")
    if not name:
        return Reply(_how_to_answer(conversation))
    if not value.strip():
        raise ConfigError(f"/set {name} needs a value, such as /set temperature 0.5")
    conversation.set(name, value.strip())
    return Reply(f"{name} = {value.strip()}")


def _how_to_answer(conversation: Conversation) -> str:
    names = [field.name for field in msgspec.structs.fields(Sampling)]
    values = {name: show(getattr(conversation.sampling, name)) for name in names}
    values["max_tokens"] = show(conversation.max_tokens)
    return "\n".join(f"{name:<24}{value!r}"[:100] for name, value in values.items())


def _undo(conversation: Conversation, _argument: str) -> Reply:
    if not conversation.take_back_answer():
        raise ConfigError("there is nothing to take back")
    question = conversation.take_back_question()
    return Reply(f"taken back: {_short(question)}")


def _retry(conversation: Conversation, _argument: str) -> Reply:
    if not conversation.take_back_answer():
        raise ConfigError("there is no answer to try again")
    return Reply(ask=True)


def _tokens(conversation: Conversation, _argument: str) -> Reply:
    usage = conversation.usage
    if usage is None:
        return Reply("not counted yet: the next answer tells")
    total = usage.prompt_tokens + usage.completion_tokens
    return Reply(
        f"{total} tokens: {usage.prompt_tokens} read ({usage.cached_tokens} of them "
        f"remembered), {usage.completion_tokens} written"
    )


def _save(conversation: Conversation, argument: str) -> Reply:
    path = _path(argument, "/save")
    conversation.save(path)
    return Reply(f"saved to {path}")


def _load(conversation: Conversation, argument: str) -> Reply:
    path = _path(argument, "/load")
    conversation.load(path)
    lines = [f"{turn.role}: {_short(turn.content)}" for turn in conversation.turns[-4:]]
    return Reply("\n".join([f"loaded {path}", *lines]))


def _exit(_conversation: Conversation, _argument: str) -> Reply:
    return Reply(leave=True)


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ConfigError(f"{command} needs the name of a file")
    return Path(argument).expanduser()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:69] + "…"
