"""/cloud and /local in the chat: who writes the next answer, or the rest of the running one."""

from __future__ import annotations

import os
import pty
import select
import sys
from pathlib import Path

import pytest

from spillover.cloud_fallback.route.allowed import Routing
from tests.cli.test_chat import ListEngine, answer, chat
from tests.cli.test_route_commands import Commands
from tests.fakes.fake import Fake
from tests.fakes.script import Act

_PROGRAM = """
import threading
from spillover.cloud_fallback.route.allowed import Routing
from spillover.edge_server.commands.chat.chat import Chat
from spillover.edge_server.commands.chat.line_input import line_reader
from spillover.edge_server.commands.chat.session import ChatSession
from spillover.runtime.events import Delta
from tests.cli.test_chat import FAKE_CARD, finished

class Engine:
    card, next_routing, notes = FAKE_CARD, Routing(), None
    def __init__(self):
        self.told = threading.Semaphore(0)
        self.words = []
    def stream(self, request, cancellation):
        yield Delta(text=f"<{request.messages[-1].content}>")
        for _ in range(2):
            assert self.told.acquire(timeout=60)
            yield Delta(text=self.words.pop(0))
        yield finished()
    def hand_over(self):
        self.words.append(" from the cloud")
        self.told.release()
        return "it rains" if len(self.words) > 1 else None
    def keep_local(self):
        self.words.append(" from here")
        self.told.release()

Chat(Engine(), ChatSession(), line_reader()).run()
"""


class Terminal:
    """A program at a terminal of its own, whose lines are so long that none is broken."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None) -> None:
        self._pid, self._keyboard = pty.fork()
        if self._pid == 0:
            os.execvpe(command[0], command, (environment or os.environ) | {"COLUMNS": "1000"})
        self.seen = ""

    def until(self, words: str) -> None:
        """Wait until the program has written *words* since the last call."""
        while words not in self.seen:
            assert select.select([self._keyboard], [], [], 60)[0], self.seen
            self.seen += os.read(self._keyboard, 1024).decode(errors="replace")
        self.seen = self.seen.partition(words)[2]

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def end(self) -> int:
        """Leave it with Ctrl-D; its exit code."""
        self.type("\x04")
        try:
            while os.read(self._keyboard, 1024):
                pass
        except OSError:  # the other end is closed
            pass
        os.close(self._keyboard)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def test_a_running_answer_is_steered_and_other_lines_wait() -> None:
    terminal = Terminal(sys.executable, "-c", _PROGRAM)
    terminal.until("> ")
    terminal.type("Hello\n")
    terminal.until("<Hello>")
    terminal.type("/cloud\n")
    terminal.until(" from the cloud")
    terminal.type("And now?\n/local\n")
    terminal.until(" from here")
    terminal.until("> And now?")
    terminal.until("<And now?>")
    terminal.type("/local\n/local\n")
    terminal.until(" from here from here")
    terminal.until("> ")
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("command", "routing"),
    [("/cloud", Routing(prefer="cloud")), ("/local", Routing(only="local_only"))],
)
def test_between_answers_the_next_one_is_chosen(command: str, routing: Routing) -> None:
    engine = ListEngine(answer("a"), answer("b"))
    chat(engine, "Q", command, "Q")
    assert [*engine.routings] == [Routing(), routing]


def test_a_cloud_that_cannot_answer_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    engine = ListEngine(answer("a"))
    engine.problem = "no provider is configured"
    chat(engine, "/cloud", "Q")
    assert "the cloud cannot answer: no provider is configured" in capsys.readouterr().err
    assert engine.routings == [Routing()]


def test_the_chat_goes_to_the_cloud_and_back(tmp_path: Path, fake: Fake) -> None:
    fake.script(Act(text="From the cloud."), Act(text="Never."))
    commands = Commands(tmp_path, fake.url, "auto")
    typed = "/cloud\nWhat is rain?\n/local\nAnd snow?\nAnd hail?\n"
    done = commands.run("chat", "--max-tokens", "8", typed=typed)
    assert done.returncode == 0
    assert done.stdout.startswith("From the cloud.\n")
    assert "[as you asked → fake/cloud-model]" in done.stderr
    assert len(fake.requests) == 1  # the conversation has returned for good


def test_who_asks_for_the_cloud_has_consented(tmp_path: Path, fake: Fake) -> None:
    fake.script(Act(text="From the cloud."))
    commands = Commands(tmp_path, fake.url, "ask")
    terminal = Terminal(*commands.command("chat"), environment=commands.environment)
    terminal.until("> ")
    terminal.type("/cloud\n")
    terminal.until("writes the next answer")
    terminal.until("> ")
    terminal.type("What is rain?\n")
    terminal.until("[as you asked → fake/cloud-model]")
    terminal.until("From the cloud.")
    terminal.until("> ")
    assert terminal.end() == 0


def test_a_question_in_the_chat_holds_its_text_back_and_no_other_line_answers_it(
    tmp_path: Path, fake: Fake
) -> None:
    fake.script(Act(text="A heap of cloud."))
    commands = Commands(tmp_path, fake.url, "ask")
    terminal = Terminal(
        *commands.command("chat", "--max-tokens", "20"), environment=commands.environment
    )
    terminal.until("> ")
    terminal.type("What is a cumulus?\n")
    terminal.until("One of your rules says so.")
    terminal.until("[y/N] ")
    terminal.type("c\n")
    terminal.until("A heap of cloud.")
    terminal.until("> ")
    fake.script(Act(text="Another heap."))
    terminal.type("What is a cumulus, again?\n")  # no question: it was a yes for this chat
    terminal.until("Another heap.")
    terminal.until("> ")
    assert terminal.end() == 0


def test_with_fallback_never_the_chat_says_so(tmp_path: Path, fake: Fake) -> None:
    commands = Commands(tmp_path, fake.url, "never")
    done = commands.run("chat", typed="/cloud\n")
    assert 'the cloud cannot answer: fallback is "never"' in done.stderr
    assert fake.record.accepted == 0


def test_an_answer_of_a_provider_is_taken_back_while_it_is_written(
    tmp_path: Path, fake: Fake
) -> None:
    fake.script(Act(text="The rain " * 50, hold_after_chunks=10))
    commands = Commands(tmp_path, fake.url, "auto")
    terminal = Terminal(
        *commands.command("chat", "--max-tokens", "40"), environment=commands.environment
    )
    terminal.until("> ")
    terminal.type("/cloud\n")
    terminal.until("writes the next answer")
    terminal.until("> ")
    terminal.type("What is rain?\n")
    terminal.until("The rain")
    fake.wait_for(holding=1)
    terminal.type("/cloud\n")
    terminal.until("(nobody can take over: fake writes it already)")
    terminal.type("/local\n")
    terminal.until("[as you asked → storyteller]")
    terminal.until("> ")
    assert terminal.end() == 0
