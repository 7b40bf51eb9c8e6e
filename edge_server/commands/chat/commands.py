"""The /commands of the chat: their names, and what each does to the conversation."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from spillover.edge_server.commands.chat.session import ChatSession
from spillover.edge_server.config.setting_type import expanded, show
from spillover.edge_server.errors import ConfigError
from spillover.runtime.events import Origin
from spillover.runtime.sampling import Sampling

_OTHER_EXITS = ("quit", "bye", "q")
"""What other programs call /exit."""


class Reply(Struct, frozen=True):
    """What the chat prints after a line, and does next."""

    text: str = ""
    ask: bool = False
    """Ask the model to answer the last question."""
    leave: bool = False
    writer: Origin | None = None
    """Who writes the next answer."""


class ChatCommand(Struct, frozen=True):
    usage: str
    help: str
    act: Callable[[ChatSession, str], Reply]


def is_command(line: str) -> bool:
    """Whether *line* is a command; // starts a message that begins with a slash."""
    return line.startswith("/") and not line.startswith("//")


def message_of(line: str) -> str:
    """The message in a line that is not a command."""
    return line[1:] if line.startswith("//") else line


def run_command(session: ChatSession, line: str) -> Reply:
    """Carry out "/name argument". Raises ConfigError, whose message is for the user."""
    name, _, argument = line[1:].strip().partition(" ")
    name = "exit" if name in _OTHER_EXITS else name
    commands = chat_commands()
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        advice = f"did you mean /{near[0]}?" if near else "/help lists all commands"
        raise ConfigError(f"there is no command /{name}: {advice}")
    return commands[name].act(session, argument.strip())


def chat_commands() -> dict[str, ChatCommand]:
    """Every command by its name."""
    table = (
        ChatCommand("/help", "show this list", _help),
        ChatCommand("/new", "start a new conversation", _new),
        ChatCommand("/system [TEXT]", "show or set the system message (- removes it)", _system),
        ChatCommand("/set [NAME VALUE]", "show or set how to answer: /set temperature 0.5", _set),
        ChatCommand("/undo", "take back the last question and its answer", _undo),
        ChatCommand("/retry", "ask the last question again", _retry),
        ChatCommand(
            "/cloud", "let the cloud write the next answer, or the rest of this one", _cloud
        ),
        ChatCommand("/local", "keep the next answer, or this one, on this device", _local),
        ChatCommand("/tokens", "show how full the context is", _tokens),
        ChatCommand("/save FILE", "save the conversation to a file", _save),
        ChatCommand("/load FILE", "continue a saved conversation", _load),
        ChatCommand("/exit", "leave the chat, as Ctrl-D does", _exit),
    )
    return {command.usage.split()[0][1:]: command for command in table}


def _help(_session: ChatSession, _argument: str) -> Reply:
    lines = [f"{command.usage:<20}{command.help}" for command in chat_commands().values()]
    lines += [
        "",
        'End a line with \\ to continue it on the next one, or enclose a long text in """.',
        "Ctrl-C stops an answer. While it is written, /cloud and /local work at once; other lines",
        "wait for its end, and nothing of what you type is shown.",
        "To begin a message with a slash, type two.",
    ]
    return Reply("\n".join(lines))


def _new(session: ChatSession, _argument: str) -> Reply:
    session.clear()
    return Reply("new conversation")


def _system(session: ChatSession, argument: str) -> Reply:
    if not argument:
        return Reply(f"system message: {session.system or 'none'}")
    session.system = "" if argument == "-" else argument
    return Reply("system message removed" if argument == "-" else "system message set")


def _set(session: ChatSession, argument: str) -> Reply:
    name, _, value = argument.partition(" ")
    if not name:
        return Reply(_how_to_answer(session))
    if not value.strip():
        raise ConfigError(f"/set {name} needs a value, as in /set temperature 0.5")
    session.set(name, value.strip())
    return Reply(f"{name} = {value.strip()}")


def _how_to_answer(session: ChatSession) -> str:
    names = [field.name for field in msgspec.structs.fields(Sampling)]
    values = {name: show(getattr(session.sampling, name)) for name in names}
    values["max_tokens"] = show(session.max_tokens)
    return "\n".join(f"{name:<24}{value}"[:100] for name, value in values.items())


def _undo(session: ChatSession, _argument: str) -> Reply:
    if not session.take_back_answer():
        raise ConfigError("there is nothing to take back")
    question = session.take_back_question()
    return Reply(f"taken back: {_short(question)}")


def _retry(session: ChatSession, _argument: str) -> Reply:
    if not session.ask_again():
        raise ConfigError("there is no question to ask again")
    return Reply(ask=True)


def _cloud(_session: ChatSession, _argument: str) -> Reply:
    return Reply(writer="cloud")


def _local(_session: ChatSession, _argument: str) -> Reply:
    return Reply(writer="local")


def _tokens(session: ChatSession, _argument: str) -> Reply:
    usage = session.usage
    if usage is None:
        return Reply("not known yet: ask again after the next answer")
    total = usage.prompt_tokens + usage.completion_tokens
    return Reply(
        f"{total} tokens: {usage.prompt_tokens} in the prompt ({usage.cached_tokens} from the "
        f"cache), {usage.completion_tokens} in the answer"
    )


def _save(session: ChatSession, argument: str) -> Reply:
    path = _path(argument, "/save")
    session.save(path)
    return Reply(f"saved to {path}")


def _load(session: ChatSession, argument: str) -> Reply:
    path = _path(argument, "/load")
    session.load(path)
    lines = [f"{turn.role}: {_short(turn.content)}" for turn in session.turns[-4:]]
    return Reply("\n".join([f"loaded {path}", *lines]))


def _exit(_session: ChatSession, _argument: str) -> Reply:
    return Reply(leave=True)


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ConfigError(f"{command} needs the name of a file")
    return expanded(argument)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:69] + "…"
