"""`spillover launch` against a real server; small programs play the clients."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from spillover.edge_server import cli
from spillover.edge_server.commands.launch.clients import CLIENTS
from spillover.edge_server.commands.launch.endpoint import url_of
from spillover.edge_server.config import config_file
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from tests.edge_server.conftest import Server
from tests.fakes.fake import Fake

KEY = "sk-canary-of-the-launch"
TELLS = """
import json, os, sys
with open(os.environ["TOLD"], "w") as file:
    json.dump({"environment": dict(os.environ), "arguments": sys.argv[1:]}, file)
sys.exit(7)
"""
"""A client that writes down how it was started."""
ASKS = """
import os, sys
import anthropic
model = os.environ["ANTHROPIC_MODEL"]
messages = [{"role": "user", "content": sys.argv[1]}]
with anthropic.Anthropic() as client:
    print(client.messages.create(model=model, max_tokens=9, messages=messages).model, flush=True)
"""
"""A client that knows only what its environment says."""
WAITS = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(5))
print("ready", flush=True)
signal.pause()
"""
"""A client that takes Ctrl-C itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("home"), "--api-key", KEY, "--alias", "storyteller, house"
    )
    yield server
    assert server.stop() == 0


Install = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a program where no other one is found, for a user who has set nothing but a key."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("TOLD", str(tmp_path / "told.json"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(config_file, "user_path", lambda: tmp_path / "none.toml")
    for name in os.environ:
        if name.startswith("SPILLOVER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SPILLOVER_API_KEY", KEY)

    def install(name: str, code: str) -> None:
        program = folder / name
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return install


def told(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "told.json").read_text())


def launch(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """It in a session of its own, as in a terminal."""
    command = [sys.executable, "-m", "spillover.edge_server.cli", "launch", *arguments]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **how)


def test_alone_it_lists_the_clients(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("codex", TELLS)
    assert cli.run(["launch"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == CLIENTS.keys()
    assert lines["codex"].endswith(" installed")
    assert "not installed: npm install -g @anthropic-ai/claude-code" in lines["claude"]


def test_a_client_that_reads_its_environment_finds_the_endpoint(
    server: Server, install: Install
) -> None:
    install("claude", ASKS)
    address = server.url.removeprefix("http://")
    process = launch("claude", "--url", address, "--", "Tell me a story.")
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, said.strip()) == (0, "storyteller"), errors
    assert "works well from" in errors  # the bundled model has a context of 1,024 tokens


def test_another_name_of_a_model_may_be_asked_for(
    server: Server, install: Install, tmp_path: Path
) -> None:
    """There was no such model, it said."""
    install("claude", TELLS)
    assert cli.run(["launch", "claude", "--url", server.url, "--model", "house"]) == 7
    environment = told(tmp_path)["environment"]
    assert environment["ANTHROPIC_MODEL"] == "house"
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "1024"


def test_no_other_cloud_of_the_users_is_asked(
    server: Server, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claude Code asked Microsoft's or Amazon's, where a variable of the user's said so."""
    install("claude", TELLS)
    switches = [f"CLAUDE_CODE_USE_{cloud}" for cloud in ("FOUNDRY", "MANTLE", "ANTHROPIC_AWS")]
    for switch in switches:
        monkeypatch.setenv(switch, "1")
    assert cli.run(["launch", "claude", "--url", server.url]) == 7
    assert {told(tmp_path)["environment"][switch] for switch in switches} == {""}


def test_a_projects_env_file_does_not_lead_aider_elsewhere(
    server: Server, install: Install, tmp_path: Path
) -> None:
    """It replaces variables, so that ours did not hold there."""
    install("aider", TELLS)
    assert cli.run(["launch", "aider", "--url", server.url]) == 7
    arguments = told(tmp_path)["arguments"]
    assert arguments[:2] == ["--model", "openai/storyteller"]
    assert arguments[2:4] == ["--openai-api-base", f"{server.url}/v1"]


@pytest.mark.parametrize("name", sorted(CLIENTS.keys() - {"llm"}))
def test_what_is_printed_does_the_same(
    server: Server,
    install: Install,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    install(name, TELLS)
    asked = [name, "--url", f"{server.url}/v1/", "--", "-p", "it's a $question"]
    assert cli.run(["launch", *asked]) == 7
    by_launch = told(tmp_path)
    set_by_us = {k: v for k, v in by_launch["environment"].items() if os.environ.get(k) != v}
    assert by_launch["arguments"][-2:] == ["-p", "it's a $question"]
    assert server.url in json.dumps(by_launch)
    assert "storyteller" in json.dumps(by_launch)
    assert name == "copilot" or "3600" in json.dumps(by_launch)  # its limit of time
    assert KEY not in json.dumps(by_launch["arguments"])
    assert KEY in by_launch["environment"].values()
    capsys.readouterr()
    assert cli.run(["launch", "--print", *asked]) == 0
    printed = capsys.readouterr().out
    assert KEY not in printed
    done = subprocess.run(["sh", "-c", printed.replace("YOUR_API_KEY", KEY)], check=False)
    assert done.returncode == 7
    by_hand = told(tmp_path)
    assert by_hand["arguments"] == by_launch["arguments"]
    assert {k: by_hand["environment"].get(k) for k in set_by_us} == set_by_us


def test_a_key_never_becomes_an_argument(
    server: Server, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("llm", TELLS)
    assert cli.run(["launch", "llm", "--url", server.url]) == 1
    said = capsys.readouterr().err
    assert "other users of this device can see" in said
    assert KEY not in said


def test_without_a_key_a_client_gets_a_word_for_it(
    tmp_path_factory: pytest.TempPathFactory,
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SPILLOVER_API_KEY")
    open_server = Server(tmp_path_factory.mktemp("home"))
    try:
        install("llm", TELLS)
        assert cli.run(["launch", "llm", "--url", open_server.url]) == 7
        endpoint = f"{open_server.url}/v1"
        assert told(tmp_path)["arguments"] == ["openai", "endpoint", endpoint, "-m", "storyteller"]
        install("claude", TELLS)
        assert cli.run(["launch", "claude", "--url", open_server.url]) == 7
        assert told(tmp_path)["environment"]["ANTHROPIC_AUTH_TOKEN"] == "unused"
        install("codex", TELLS)
        assert cli.run(["launch", "codex", "--url", open_server.url]) == 7
        assert "env_key" not in json.dumps(told(tmp_path)["arguments"])
    finally:
        assert open_server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["claud"], 2, "there is no client 'claud': did you mean claude?"),
        (["claude", "-p", "x"], 2, "Put the client's own options after --"),
        (["claude", "--n-ctx", "9000"], 2, "--n-ctx and --fallback need --serve"),
        (["claude", "--serve", "x", "--print"], 2, "--serve goes neither with --url nor"),
        (["goose"], 1, "Goose is not installed: there is no program goose"),
        (["claude", "--url", "http://127.0.0.1:1"], 1, "no endpoint at http://127.0.0.1:1 .*"
         "spillover serve MODEL.*--serve MODEL"),
        (["claude", "--url", "openai"], 2, "openai is a company: give the address"),
        (["claude", "--url", "nonsense"], 2, "'nonsense' is neither a company"),
        (["claude", "--url", "SERVER", "--model", "gpt-99"], 1, "no model 'gpt-99'; it has story"),
        (["claude", "--serve", "gone.gguf"], 1, "the server did not start: .*no model 'gone.gguf'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    server: Server,
    install: Install,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    install("claude", TELLS)
    found = [server.url if word == "SERVER" else word for word in arguments]
    assert cli.run(["launch", *found]) == code
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said


def test_another_program_at_the_address_is_named(
    fake: Fake, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("claude", TELLS)
    assert cli.run(["launch", "claude", "--url", fake.url]) == 1
    assert f"{fake.url} is not Spillover but" in capsys.readouterr().err


def test_a_wrong_key_is_said(
    server: Server,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("claude", TELLS)
    monkeypatch.delenv("SPILLOVER_API_KEY")
    assert cli.run(["launch", "claude", "--url", server.url]) == 1
    assert "wants an API key: set SPILLOVER_API_KEY" in capsys.readouterr().err


def test_the_address_is_that_of_the_settings() -> None:
    assert url_of(Settings()) == "http://127.0.0.1:8080"
    assert url_of(Settings(hosts=("0.0.0.0",), port=9000)) == "http://127.0.0.1:9000"
    assert url_of(Settings(hosts=("[::]",))) == "http://[::1]:8080"
    assert url_of(Settings(hosts=("::1", "127.0.0.1"))) == "http://[::1]:8080"
    with pytest.raises(ConfigError, match="--url"):
        url_of(Settings(port=0))


def test_a_server_may_run_for_as_long_as_the_client(install: Install, tmp_path: Path) -> None:
    install("claude", ASKS + TELLS)
    process = launch("claude", "--serve", "storyteller", "--n-ctx", "512", "--", "Tell me a story.")
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, said.strip()) == (7, "storyteller"), errors
    environment = told(tmp_path)["environment"]
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "512"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{environment['ANTHROPIC_BASE_URL']}/health")


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_ctrl_c_is_for_the_client_alone(install: Install) -> None:
    install("claude", WAITS)
    process = launch("claude", "--serve", "storyteller")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = children(process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    assert "Traceback" not in errors
    assert len(started) > 2  # the client, the server and its worker
    assert not psutil.wait_procs(started, timeout=30)[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(install: Install, number: signal.Signals) -> None:
    install("claude", WAITS)
    process = launch("claude", "--serve", "storyteller")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = children(process)
    if number == signal.SIGKILL:  # nobody can end the client then
        started = [child for child in started if "claude" not in " ".join(child.cmdline())]
    process.send_signal(number)
    if number == signal.SIGKILL:
        os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert len(started) > 1
    assert not psutil.wait_procs(started, timeout=30)[1]
