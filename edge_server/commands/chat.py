"""spillover chat: a conversation in the terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from spillover.cloud_fallback.events import Replace
from spillover.edge_server.commands.answer_output import (
    AnswerOutput,
    answer_to_stdout,
)
from spillover.edge_server.commands.chat_commands import Reply, is_command, message_of, obey
from spillover.edge_server.commands.conversation import Conversation
from spillover.edge_server.commands.line_input import ReadLine, line_reader, read_message
from spillover.edge_server.commands.options import load_config, model_argument, setting_options
from spillover.edge_server.commands.routed import RoutedEngine, routed_conversation
from spillover.edge_server.commands.talk import tell
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ContextOverflow, EngineClosed, SpilloverError, WorkerDied
from spillover.runtime.events import Delta, Finished, ReasoningDelta

_EPILOG = """\b
Examples:
  spillover chat
  spillover chat ~/models/qwen3-0.6b-Q4_K_M.gguf --system "Answer briefly."

/help shows the commands of the chat.
"""
_FULL = (
    "the context is full: /new begins again, /undo takes back a turn, --n-ctx may make it larger"
)


@click.command("chat", epilog=_EPILOG)
@model_argument
@click.option("--system", default="", metavar="TEXT", help="System message.  [default: none]")
@setting_options(["fallback", "prefer", "n_ctx", "n_threads", "n_gpu_layers", "kv_cache_type"])
def command(system: str, config_flag: Path | None, **flags: Any) -> int:
    """Talk with MODEL (the bundled one when none is named)."""
    settings = load_config(flags, config_flag).settings
    with routed_conversation(settings) as engine:
        if sys.stdin.isatty():
            card = engine.card
            tell(f"{card.name}, {card.n_ctx} tokens of context. /help shows the commands.")
        return Chat(engine, Conversation(system), line_reader()).talk()


class Chat:
    """Reads messages and shows answers until the user leaves."""

    def __init__(
        self, engine: RoutedEngine, conversation: Conversation, read_line: ReadLine
    ) -> None:
        self._engine = engine
        self._conversation = conversation
        self._read_line = read_line
        self._interrupted = False
        self._exit_code = 0

    def talk(self) -> int:
        """The exit code: 1 when something went wrong while nobody was there to see it."""
        while not self._turn():
            pass
        return 0 if sys.stdin.isatty() else self._exit_code

    def _turn(self) -> bool:
        """One message or command; whether the user leaves."""
        try:
            line = read_message(self._read_line)
        except KeyboardInterrupt:
            return self._interrupt()
        self._interrupted = False
        if line is None:
            return True
        try:
            reply = self._reply(line)
            if reply.text:
                tell(reply.text)
            if reply.ask:
                self._answer()
        except (WorkerDied, EngineClosed):
            raise  # there is nobody to talk to any more
        except SpilloverError as error:
            self._failed(error)
            return False
        return reply.leave

    def _interrupt(self) -> bool:
        tell("" if self._interrupted else "\n(Ctrl-C again or /exit leaves)")
        leave, self._interrupted = self._interrupted, True
        return leave

    def _reply(self, line: str) -> Reply:
        if is_command(line):
            return obey(self._conversation, line)
        if not line.strip():
            return Reply()
        self._conversation.say(message_of(line))
        return Reply(ask=True)

    def _failed(self, error: SpilloverError) -> None:
        self._exit_code = 1
        tell(str(error))
        if isinstance(error, ContextOverflow):
            tell(_FULL)

    def _answer(self) -> None:
        """Stream the answer to the question that stands last, and remember what came of it."""
        output, thoughts = answer_to_stdout(), AnswerOutput(sys.stdout, dim=True)
        text, usage = "", None
        try:
            request = self._conversation.request()
            with (
                _ctrl_c_cancels() as cancellation,
                closing(self._engine.stream(request, cancellation)) as events,
            ):
                for event in events:
                    match event:
                        case ReasoningDelta(text=thought):
                            thoughts.write(thought)
                        case Delta(text=added):
                            thoughts.end_line()
                            output.write(added)
                            text += added
                        case Replace(keep_chars=keep):
                            text = text[:keep]
                        case Finished():
                            usage = event.usage
                            self._finish(event, output)
        finally:
            self._conversation.answered(text, usage)

    def _finish(self, event: Finished, output: AnswerOutput) -> None:
        output.end_line()
        total = event.usage.prompt_tokens + event.usage.completion_tokens
        if event.reason == "cancelled":
            tell("(stopped)")
        elif event.reason == "interrupted":
            tell("(broken off: nobody could go on with it)")
        elif event.reason == "length" and total >= self._engine.card.n_ctx - 1:
            tell(_FULL)
        elif event.reason == "length":
            tell("(cut at max_tokens: /set max_tokens sets how long an answer may be)")


@contextmanager
def _ctrl_c_cancels() -> Generator[Cancellation]:
    """Ctrl-C stops the answer; a second one, should that not help, the program."""
    cancellation = Cancellation()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if cancellation.cancelled:
            raise KeyboardInterrupt
        # Not in this thread: it may hold the lock that cancel() takes.
        threading.Thread(target=cancellation.cancel).start()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield cancellation
    finally:
        signal.signal(signal.SIGINT, before)
