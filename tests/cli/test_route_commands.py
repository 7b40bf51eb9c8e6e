"""run, chat and doctor in processes of their own, with providers in the configuration."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.fake import Fake
from tests.fakes.script import Act

KEY = "sk-canary-of-the-commands"
HOOK = """
import os, sys
def see(name, arguments):
    if name.startswith("socket.") and name not in ("socket.__new__", "socket.gethostname"):
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{name} {arguments!r}\\n")
sys.addaudithook(see)
"""
CONFIG = """
fallback = "{fallback}"
data_dir = "{folder}"
consent_timeout_s = {patience_s}
[[provider]]
name = "fake"
dialect = "openai"
model = "cloud-model"
base_url = "{url}/v1"
key_variable = "FAKE_KEY"
is_local_network = false
[[provider]]
name = "claude"
dialect = "anthropic"
model = "claude-sonnet-5"
[[provider]]
name = "g"
dialect = "vertex"
model = "gemini-2.5-flash"
project = "p"
region = "us-central1"
token_command = ["false"]
[[provider]]
name = "aws"
dialect = "bedrock"
model = "anthropic.claude-haiku-4-5-20251001-v1:0"
region = "eu-central-1"
[policy]
switched_off = ["low_confidence", "language", "wrong_script", "refusal", "empty"]
[[policy.rules]]
name = "clouds"
words = ["cumulus"]
"""
KEYS = ("FAKE_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_BEARER_TOKEN_BEDROCK", "HF_TOKEN")  # fmt: skip


class Commands:
    """Runs `spillover` with one configuration."""

    def __init__(self, folder: Path, url: str, fallback: str, patience_s: float = 20) -> None:
        self.seen = folder / "seen"
        self._config = folder / "config.toml"
        self._config.write_text(
            CONFIG.format(fallback=fallback, folder=folder, url=url, patience_s=patience_s)
        )
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        self.environment = (
            os.environ
            | dict.fromkeys(KEYS, KEY)
            | {
                "SPILLOVER_N_THREADS": "1",
                "PYTHONPATH": str(hook),
                "SEEN": str(self.seen),
                "XDG_CACHE_HOME": str(folder),
            }
        )

    def keep_only_provider(self) -> None:
        """Take out all providers but the fake."""
        head, rest = self._config.read_text().split('[[provider]]\nname = "claude"')
        self._config.write_text(head + rest[rest.index("[policy]") :])

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert KEY not in done.stdout + done.stderr
        return done

    def ask(self, command: str, question: str) -> subprocess.CompletedProcess[str]:
        """One question, as `run` takes it, or as `chat` does."""
        return self.run("run", question) if command == "run" else self.run("chat", typed=question)

    def run_at_terminal(self, question: str, reply: str) -> tuple[str, str]:
        """What `run` prints, and what it says on a terminal on which *reply* is typed when it
        asks; "" is no reply at all."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            self.command("run", question, "--max-tokens", "20"),
            env=self.environment,
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            os.close(theirs)
            said = b""
            with contextlib.suppress(OSError):  # the other end is closed
                while data := os.read(ours, 1024):
                    said += data
                    if reply and b"[y/N]" in said:
                        os.write(ours, reply.encode())
                        reply = ""
            os.close(ours)
            assert process.stdout is not None
            printed = process.stdout.read()
            assert process.wait(30) == 0
        return printed, said.decode()

    def command(self, name: str, *arguments: str) -> list[str]:
        module = [sys.executable, "-m", "spillover.edge_server.cli"]
        return [*module, name, "--config", str(self._config), *arguments]

    @property
    def sockets(self) -> str:
        return self.seen.read_text() if self.seen.exists() else ""


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (("doctor",), ""),
        (("doctor", "--json"), ""),
        (("run", "What is a cumulus?", "--max-tokens", "20"), ""),
        (("chat",), "What is a cumulus?\nTell me more.\n"),
        (("config",), ""),
    ],
)
def test_fallback_never_opens_no_socket_and_looks_up_no_name(
    tmp_path: Path, fake: Fake, arguments: tuple[str, ...], typed: str
) -> None:
    commands = Commands(tmp_path, fake.url, "never")
    done = commands.run(*arguments, typed=typed)
    assert done.returncode in (0, 1), done.stderr
    assert commands.sockets == ""
    assert fake.record.accepted == 0


@pytest.mark.parametrize("command", ["run", "chat"])
def test_the_handoff_is_shown_beside_the_answer(tmp_path: Path, fake: Fake, command: str) -> None:
    fake.script(Act(text="A heap of cloud."))
    commands = Commands(tmp_path, fake.url, "auto")
    question = "What is a cumulus?"
    done = commands.ask(command, question)
    assert "A heap of cloud." in done.stdout
    assert "[one of your rules says so → fake/cloud-model]" in done.stderr
    assert "rules" not in done.stdout
    assert str(fake.port) in commands.sockets
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["run", "chat"])
def test_without_a_terminal_to_ask_at_nothing_leaves(
    tmp_path: Path, fake: Fake, command: str
) -> None:
    commands = Commands(tmp_path, fake.url, "ask")
    question = "What is a cumulus?"
    done = commands.ask(command, question)
    assert done.stdout.strip()
    assert "A heap of cloud." not in done.stdout
    assert fake.record.accepted == 0


@pytest.mark.parametrize("reply", ["y\n", "n\n", "\n"])
def test_the_question_at_the_terminal_is_answered_there(
    tmp_path: Path, fake: Fake, reply: str
) -> None:
    fake.script(Act(text="A heap of cloud."))
    commands = Commands(tmp_path, fake.url, "ask")
    printed, said = commands.run_at_terminal("What is a cumulus?", reply)
    assert "One of your rules says so." in said
    assert "May fake/cloud-model continue? It would receive 1 message, and what is" in said
    assert ("A heap of cloud." in printed) == (reply == "y\n")
    assert bool(fake.record.accepted) == (reply == "y\n")
    assert printed.strip()


def test_always_and_never_are_kept_until_they_are_forgotten(tmp_path: Path, fake: Fake) -> None:
    fake.script(Act(text="A heap of cloud."))
    commands = Commands(tmp_path, fake.url, "ask")
    question = "What is a cumulus?"
    printed, said = commands.run_at_terminal(question, "always\n")
    assert "A heap of cloud." in printed
    assert "c: yes for this chat" in said
    printed, said = commands.run_at_terminal(question, "")
    assert "A heap of cloud." in printed
    assert "[y/N]" not in said
    assert commands.run("consents").stdout.startswith("fake: always, since ")
    assert commands.run("consents", "--forget", "fake").returncode == 0
    printed, said = commands.run_at_terminal(question, "never\n")
    assert "A heap of cloud." not in printed
    said = commands.run_at_terminal(question, "n\n")[1]
    assert "fake/" not in said
    assert "May claude/" in said  # of which nothing is decided
    assert '"granted": false' in commands.run("consents", "--json").stdout
    assert commands.run("consents", "--forget", "nobody").returncode == 2


def test_an_unanswered_question_becomes_a_no_after_a_time(tmp_path: Path, fake: Fake) -> None:
    """It used to wait forever."""
    commands = Commands(tmp_path, fake.url, "ask", patience_s=0.2)
    printed, said = commands.run_at_terminal("What is a cumulus?", "")
    assert "[y/N]" in said
    assert printed.strip()
    assert fake.record.accepted == 0


@pytest.mark.parametrize("fallback", ["auto", "never"])
def test_a_fallback_that_cannot_work_is_noted_at_the_start(
    tmp_path: Path, fake: Fake, fallback: str
) -> None:
    """`chat --fallback auto` used to say nothing when no provider had a key."""
    commands = Commands(tmp_path, fake.url, fallback)
    commands.keep_only_provider()
    commands.environment.pop("FAKE_KEY")
    done = commands.run("run", "Hello", "--max-tokens", "4")
    assert done.returncode == 0
    noted = "warning: no provider can take over: fake: there is no key: set FAKE_KEY" in done.stderr
    assert noted == (fallback == "auto")
