"""spillover chat: a conversation in the terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from spillover.cloud_fallback.events import Replace
from spillover.cloud_fallback.route.allowed import Routing
from spillover.edge_server.commands.chat.commands import Reply, is_command, message_of, run_command
from spillover.edge_server.commands.chat.line_input import ReadLine, line_reader, read_message
from spillover.edge_server.commands.chat.session import ChatSession
from spillover.edge_server.commands.engines.job_process import comparing_in_background
from spillover.edge_server.commands.loading import default_options
from spillover.edge_server.commands.options import (
    CONVERSATION_SETTINGS,
    load_config,
    model_argument,
    setting_options,
)
from spillover.edge_server.commands.output import (
    AnswerOutput,
    answer_to_stdout,
    print_note,
)
from spillover.edge_server.commands.routed import RoutedEngine, routed_conversation
from spillover.edge_server.commands.terminal.keyboard import unseen_typing
from spillover.edge_server.logs import log_to_stderr
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import ContextOverflow, EngineClosed, SpilloverError, WorkerDied
from spillover.runtime.events import Delta, Finished, Origin, ReasoningDelta

_EPILOG = """\b
Examples:
  spillover chat
  spillover chat ~/models/qwen3-0.6b-Q4_K_M.gguf --system "Answer briefly."

/help lists the commands of the chat.
"""
_FULL = (
    "the context is full: /new starts over, /undo takes back a turn, --n-ctx may set a larger one"
)


@click.command("chat", epilog=_EPILOG)
@model_argument
@click.option("--system", default="", metavar="TEXT", help="System message.  [default: none]")
@setting_options(CONVERSATION_SETTINGS)
def command(system: str, config_flag: Path | None, **flags: Any) -> int:
    """Chat with MODEL (default: the one pulled last, or the bundled one)."""
    settings = load_config(flags, config_flag).settings
    if settings.log_level == "info":
        log_to_stderr("warning")  # it would stand in the middle of an answer
    with (
        routed_conversation(settings) as engine,
        comparing_in_background(Path(engine.card.path), default_options(settings)),
    ):
        if sys.stdin.isatty():
            card = engine.card
            print_note(f"{card.name}, {card.n_ctx} tokens of context. /help lists the commands.")
        return Chat(engine, ChatSession(system, settings.answers), line_reader()).run()


class Chat:
    """Reads messages and prints answers until the user leaves."""

    def __init__(self, engine: RoutedEngine, session: ChatSession, read_line: ReadLine) -> None:
        self._engine = engine
        self._session = session
        self._read_line = read_line
        self._typed: deque[str | None] = deque()
        """Lines that were typed while an answer was written; None: the end of the input."""
        self._interrupted = False
        self._exit_code = 0

    def run(self) -> int:
        """The exit code: 1 if an answer failed and no user was there to see it."""
        while not self._turn():
            pass
        return 0 if sys.stdin.isatty() else self._exit_code

    def _turn(self) -> bool:
        """Take one message or command; whether the user leaves."""
        try:
            line = read_message(self._next_line)
        except KeyboardInterrupt:
            return self._interrupt()
        self._interrupted = False
        if line is None:
            return True
        try:
            reply = self._reply(line)
            if reply.text:
                print_note(reply.text)
            if reply.writer is not None:
                self._choose_next(reply.writer)
            if reply.ask:
                self._answer()
        except (WorkerDied, EngineClosed):
            raise  # no further answer is possible
        except SpilloverError as error:
            self._failed(error)
            return False
        return reply.leave

    def _next_line(self, prompt: str) -> str:
        """The next line, shown if it was typed unseen. Raises EOFError."""
        if not self._typed:
            return self._read_line(prompt)
        line = self._typed.popleft()
        if line is None:
            raise EOFError
        print_note(f"{prompt}{line}")
        return line

    def _choose_next(self, writer: Origin) -> None:
        """Let *writer* write the next answer."""
        engine = self._engine
        if writer == "local":
            engine.next_routing = Routing(only="local_only")
            print_note("the next answer stays on this device")
        elif (problem := engine.cloud_problem()) is not None:
            print_note(f"the cloud cannot answer: {problem}")
        else:
            engine.next_routing = Routing(prefer="cloud")
            print_note("the cloud writes the next answer")

    def _typed_in_answer(self, line: str | None) -> None:
        """Take a line that was typed while an answer is written; in another thread than its."""
        command = (line or "").strip()
        if command == "/local":
            self._engine.keep_local()
        elif command != "/cloud":
            self._typed.append(line)
        elif (problem := self._engine.hand_over()) is not None:
            print_note(f"\n(nobody can take over: {problem})")

    def _interrupt(self) -> bool:
        print_note("" if self._interrupted else "\n(to leave, press Ctrl-C again or type /exit)")
        leave, self._interrupted = self._interrupted, True
        return leave

    def _reply(self, line: str) -> Reply:
        if is_command(line):
            return run_command(self._session, line)
        if not line.strip():
            return Reply()
        self._session.add_question(message_of(line))
        return Reply(ask=True)

    def _failed(self, error: SpilloverError) -> None:
        self._exit_code = 1
        print_note(str(error))
        if isinstance(error, ContextOverflow):
            print_note(_FULL)

    def _answer(self) -> None:
        """Stream the answer to the last question, and add it to the session."""
        output = answer_to_stdout(beside=self._engine.notes)
        reasoning = AnswerOutput(sys.stdout, dim=True, beside=output)
        text, usage = "", None
        try:
            request = self._session.request()
            with (
                unseen_typing(self._typed_in_answer),
                _ctrl_c_cancels() as cancellation,
                closing(self._engine.stream(request, cancellation)) as events,
            ):
                for event in events:
                    match event:
                        case ReasoningDelta(text=added):
                            reasoning.write(added)
                        case Delta(text=added):
                            reasoning.end_line()
                            output.write(added)
                            text += added
                        case Replace(keep_chars=keep):
                            text = text[:keep]
                        case Finished():
                            usage = event.usage
                            output.end_line()
                            self._finish(event)
        finally:
            output.end_line()
            self._session.add_answer(text, usage)

    def _finish(self, event: Finished) -> None:
        total = event.usage.prompt_tokens + event.usage.completion_tokens
        if event.reason == "cancelled":
            print_note("(stopped)")
        elif event.reason == "interrupted":
            print_note("(interrupted: no model could finish the answer)")
        elif event.reason == "length" and total >= self._engine.card.n_ctx - 1:
            print_note(_FULL)
        elif event.reason == "length":
            print_note("(cut at max_tokens: /set max_tokens allows longer answers)")


@contextmanager
def _ctrl_c_cancels() -> Generator[Cancellation]:
    """Ctrl-C stops the answer; a second one stops the program."""
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
