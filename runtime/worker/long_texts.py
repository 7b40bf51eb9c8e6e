"""Serves commands with long texts in their own thread: tokenizing megabytes takes seconds, and
short requests should not wait for that."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from spillover.runtime.errors import EngineBusy
from spillover.runtime.request import Message
from spillover.runtime.worker.exits import exit_on_error
from spillover.runtime.worker.protocol import AskPrompt, AskTokens, Embed, Submit

LONG_CHARS = 1 << 16
MANY_MESSAGES = 256
"""Some chat templates take a time that grows with the square of the number of messages."""
MAX_WAITING = 4
"""Of each priority."""
RETRY_AFTER_S = 5.0

Command: TypeAlias = Submit | Embed | AskTokens | AskPrompt


def is_long(command: Command) -> bool:
    """Whether the texts that must be read for *command* are long."""
    if isinstance(command, AskTokens):
        return len(command.text) > LONG_CHARS
    if isinstance(command, Embed):
        n_query = len(command.request.query or "")  # read once for each input
        return sum(len(each) + n_query for each in command.request.inputs) > LONG_CHARS
    request = command.request
    if len(request.messages) > MANY_MESSAGES:
        return True
    n_prompt = len(request.prompt) if isinstance(request.prompt, str) else 0
    return n_prompt + sum(map(_n_chars, request.messages)) > LONG_CHARS


def _n_chars(message: Message) -> int:
    n = len(message.content) + len(message.reasoning or "")
    return n + sum(len(call.arguments) for call in message.tool_calls)


def _is_background(command: Command) -> bool:
    return isinstance(command, Submit) and command.request.is_background


class LongTexts:
    """Gives commands to *serve*, one after the other, those of the background last."""

    def __init__(self, serve: Callable[[Command], None]) -> None:
        self._serve = serve
        self._lock = threading.Lock()
        self._waiting: queue.PriorityQueue[tuple[bool, int, Command]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._open: dict[int, Command] = {}
        self._n_waiting = Counter[bool]()
        """By whether they are of the background."""
        self._thread: threading.Thread | None = None

    def add(self, command: Command) -> None:
        """Serve *command* soon; EngineBusy when too many are waiting. A command that a crashed
        worker had accepted is always taken."""
        was_accepted = isinstance(command, Submit) and command.resumed
        is_new = not (was_accepted or (isinstance(command, Embed) and command.accepted))
        kind = _is_background(command)
        with self._lock:
            if is_new and self._n_waiting[kind] >= MAX_WAITING:
                raise EngineBusy(
                    "too many long prompts are waiting: try again later", RETRY_AFTER_S
                )
            self._n_waiting[kind] += 1
            self._open[command.id] = command
            if self._thread is None:
                self._thread = threading.Thread(
                    target=exit_on_error, args=(self._run,), name="long texts", daemon=True
                )
                self._thread.start()
        self._waiting.put((kind, next(self._numbers), command))

    def take_back(self, command_id: int) -> Command | None:
        """Remove and return the command, if it was not served yet."""
        with self._lock:
            return self._open.pop(command_id, None)

    def finish(self, command_id: int, enter: Callable[[], None]) -> None:
        """Call *enter* unless the command was taken back; it cannot be taken back meanwhile."""
        with self._lock:
            if self._open.pop(command_id, None) is not None:
                enter()

    def _run(self) -> None:
        while True:
            kind, _, command = self._waiting.get()
            if command.id in self._open:
                self._serve(command)
            with self._lock:
                self._n_waiting[kind] -= 1
                self._open.pop(command.id, None)
