"""The command line from outside: help, exit codes, what it prints; no model is loaded."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

from spillover.edge_server import cli
from spillover.edge_server.commands.config_show import as_markdown, policy_as_markdown
from spillover.edge_server.commands.output import remarks_to_stderr
from spillover.edge_server.commands.run import command as run_command
from spillover.edge_server.commands.run import print_text
from spillover.edge_server.commands.serve import curl_line
from spillover.edge_server.config import config_file
from spillover.edge_server.config.config import load
from spillover.edge_server.config.setting_list import setting_list
from spillover.runtime.errors import EngineError
from spillover.runtime.events import Delta

KEY = "sk-canary-0123456789"
DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(autouse=True)
def nothing_set_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(config_file, "user_path", lambda: tmp_path / "none.toml")
    for setting in setting_list():
        monkeypatch.delenv(setting.variable, raising=False)
    with open(os.devnull) as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        yield


@pytest.mark.parametrize("name", [[], *([name] for name in cli.COMMANDS)])
def test_help_has_an_example(name: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"spillover {' '.join(name)}".strip() in text


def test_help_shows_the_defaults_of_the_structs(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for setting in setting_list():
        if setting.flag:
            assert setting.flag in text
            assert f"[default: {setting.default_text}" in text


def test_help_does_not_import_what_it_does_not_need() -> None:
    code = (
        "import sys; from spillover.edge_server.cli import run; run(['--help']);"
        "slow = {'flask', 'uvicorn', 'numpy', 'llama_cpp', 'msgspec'} & set(sys.modules);"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command"),
        (["serv"], "Did you mean serve?"),
        (["serve", "--port", "abc"], "--port: 'abc' is not allowed"),
        (["serve", "--config", "/gone.toml"], "--config: there is no file /gone.toml"),
        (["run", "x", "--temperature", "9"], "temperature must be a number from 0.0 to 5.0"),
        (["run", "x", "--max-tokens", "-2"], "--n-predict: '-2' is not allowed"),
        (["run", "x", "--raw", "--system", "s"], "leave out --raw"),
        (["run", " "], "there is no prompt"),
    ],
)
def test_wrong_use_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_missing_model_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "x", "--model", "storyteler"]) == 1
    assert "did you mean storyteller?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [["serve", "gone.gguf"], ["chat", "gone.gguf"], ["run", "gone.gguf", "x"]]
)
def test_every_command_takes_the_model_both_ways(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(verb) == 1
    assert "there is no model 'gone.gguf'" in capsys.readouterr().err
    with_flag = [verb[0], "-m", *verb[1:]]
    assert cli.run(with_flag) == 1
    assert "there is no model 'gone.gguf'" in capsys.readouterr().err
    assert cli.run([*verb, "--model", "other.gguf"]) == 2
    assert "leave one out" in capsys.readouterr().err


def test_a_single_argument_of_run_is_the_prompt_unless_it_is_a_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["run", "storyteller"]) == 2  # and standard input is empty
    assert "there is no prompt" in capsys.readouterr().err
    done = command_line("run storyteller --raw --n-predict 1 'Once upon'")
    assert (done.returncode, bool(done.stdout.strip())) == (0, True)
    piped = command_line("run storyteller --raw --n-predict 1 </dev/null")
    assert "there is no prompt" in piped.stderr


def command_line(arguments: str) -> subprocess.CompletedProcess[str]:
    """`spillover` in a shell, with redirections."""
    command = f"{shlex.quote(sys.executable)} -m spillover.edge_server.cli {arguments}"
    environment = {**os.environ, "SPILLOVER_N_THREADS": "1"}
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env=environment
    )


def test_a_closed_standard_stream_leads_nowhere() -> None:
    done = command_line("run Hello --max-tokens 1 <&- >&-")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1() -> None:
    done = command_line("config >/dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "callback", interrupted)
    assert cli.run(["run", "x"]) == 130


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("numpy failed\n\nx.so: failed to map segment from shared object\n"),
    ],
)
def test_want_of_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ulimit -v` used to end in a traceback."""

    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(run_command, "callback", fail)
    assert cli.run(["run", "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("spillover: the system gives no more memory or threads (")
    assert said.count("\n") == 1


def test_a_user_without_a_home_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container with a user of any number each command ended with a trace."""
    for name in ("HOME", *(name for name in os.environ if name.startswith("XDG_"))):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert cli.run(["models", "--here"]) == 1
    said = capsys.readouterr().err
    assert "home directory" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["run FILE Once --engine onnx", "engines FILE"])
def test_a_path_that_is_no_text_is_told_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file ended both with a trace."""
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.write_bytes(b"GGUF")
    assert cli.run([str(path) if word == "FILE" else word for word in command.split()]) == 1
    assert capsys.readouterr().err.endswith("is not UTF-8 text: rename it\n")


def test_a_defect_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(run_command, "callback", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(["run", "x"])


def test_config_shows_origins_and_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPILLOVER_API_KEY", KEY)
    monkeypatch.setenv("SPILLOVER_N_CTX", "2048")
    for form in ([], ["--json"], ["--toml"]):
        assert cli.run(["config", *form]) == 0
        text = capsys.readouterr().out
        assert "canary" not in text
        assert "2048" in text
    assert cli.run(["config", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["n_ctx"] == {"value": 2048, "origin": "SPILLOVER_N_CTX"}
    assert settings["api_keys"] == {"value": ["********"], "origin": "SPILLOVER_API_KEY"}


def test_the_printed_file_has_the_same_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {
        "SPILLOVER_N_CTX": "2048",
        "SPILLOVER_N_THREADS": "auto",
        "SPILLOVER_HOST": "::1",
        "SPILLOVER_USE_EXTRA_BUFTS": "false",
        "SPILLOVER_ALLOWED_HOST": "a,b",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    cli.run(["config", "--toml"])
    path = tmp_path / "config.toml"
    path.write_text(capsys.readouterr().out)
    assert set(tomllib.loads(path.read_text())) == {
        "n_ctx",
        "n_threads",
        "host",
        "use_extra_bufts",
        "allowed_hosts",
    }
    from_file = load({}, environ={}, config_flag=path)
    assert from_file.settings == load({}, environ=environ).settings


def test_the_printed_file_says_which_tables_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[budget.total]\nusd_per_day = 1\n[[local_model]]\nname = "storyteller"\n')
    cli.run(["config", "--toml", "--config", str(path)])
    assert f"the tables of {path} (local_model, budget)" in capsys.readouterr().out


def test_an_answer_that_breaks_off_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error, or the shell after Ctrl-C, went on in it."""

    def broken() -> Generator[Delta]:
        yield Delta(text="Once")
        raise EngineError("it broke")

    with pytest.raises(EngineError):
        print_text(broken(), remarks_to_stderr())
    assert capsys.readouterr().out == "Once\n"


def test_the_documentation_lists_every_setting_as_it_is() -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    for table in (as_markdown(), policy_as_markdown()):
        head = table.partition("\n")[0]
        found = head + text.partition(head)[2].partition("\n\n")[0]
        assert found == table, "put what `spillover config --markdown` prints into the docs"


def test_a_chat_has_no_log_in_its_answers_unless_somebody_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was found out about the engines meanwhile stood in the middle of an answer."""
    log = logging.getLogger("spillover")
    monkeypatch.setattr(log, "level", log.level)
    for wanted, level in (("info", logging.WARNING), ("debug", logging.DEBUG)):
        monkeypatch.setenv("SPILLOVER_LOG_LEVEL", wanted)
        assert cli.run(["chat", "gone.gguf"]) == 1
        assert log.level == level


def test_the_curl_line_survives_a_shell() -> None:
    line = curl_line("http://[::1]:8080/", 'it\'s a "model"', needs_key=True)
    words = shlex.split(line)
    assert words[:3] == ["curl", "-N", "http://[::1]:8080/v1/chat/completions"]
    assert "Authorization: Bearer YOUR_API_KEY" in words
    assert json.loads(words[-1])["model"] == 'it\'s a "model"'
    assert "Authorization" not in curl_line("http://127.0.0.1:1", "m", needs_key=False)
