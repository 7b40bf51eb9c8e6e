"""llama.cpp is compiled behind a server: once, interrupted at any time, and never again in vain."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.ci.places import TIMEOUT_S, Clone


def said_by(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=TIMEOUT_S)[1]


def test_it_is_compiled_and_found_from_then_on(clone: Clone) -> None:
    assert clone.run("compile-llama", "check").returncode == 1
    done = clone.run("compile-llama", "behind")
    assert done.returncode == 0, done.stderr + clone.log
    assert "used from the next start on" in done.stderr
    assert clone.has_llama
    assert clone.run("compile-llama", "check").returncode == 0
    assert clone.cached == {"wheel"}


def test_another_clone_takes_what_was_compiled(clone: Clone) -> None:
    clone.run("compile-llama")
    installed = clone.root / ".venv" / "lib"
    for folder in installed.glob("python*/site-packages/llama_cpp*"):
        shutil.rmtree(folder)
    assert not clone.has_llama
    assert clone.run("compile-llama").returncode == 0
    assert clone.has_llama
    assert clone.n_builds == 1


def test_it_ends_with_the_server_and_goes_on_next_time(clone: Clone) -> None:
    behind = clone.start_held("compile-llama", "behind")
    assert "goes on with it" in said_by(behind)  # communicate() closes its standard input
    assert behind.returncode == 1
    assert clone.reached is not None
    assert clone.reached.read() == ""  # the compiler has ended, too
    assert not clone.has_llama

    done = clone.run("compile-llama", "behind")
    assert done.returncode == 0, done.stderr + clone.log
    assert "[2/2]" in clone.log
    assert clone.has_llama


def test_ctrl_c_ends_a_compile_in_the_foreground(clone: Clone) -> None:
    held = clone.start_held("compile-llama")
    os.killpg(held.pid, signal.SIGINT)
    assert "goes on with it" in said_by(held)
    assert clone.reached is not None
    assert clone.reached.read() == ""


def test_a_second_start_leaves_the_compile_to_the_first(clone: Clone) -> None:
    first = clone.start_held("compile-llama", "behind")
    second = clone.run("compile-llama", "behind")
    assert second.returncode == 0
    assert "being compiled already" in second.stderr
    waiting = clone.start("compile-llama")
    assert waiting.stderr is not None
    assert "waiting for that" in waiting.stderr.readline()
    clone.release()
    assert first.wait(TIMEOUT_S) == 0
    assert waiting.wait(TIMEOUT_S) == 0
    assert clone.has_llama
    assert clone.n_builds == 1


def test_a_failure_is_said_once_and_tried_again_when_asked(clone: Clone) -> None:
    first = clone.run("compile-llama", "behind", FAILS="1")
    assert first.returncode == 1
    assert "could not be installed" in first.stderr
    assert "make setup tries again" in first.stderr
    second = clone.run("compile-llama", "behind", FAILS="1")
    assert second.stderr == ""
    assert clone.n_builds == 1
    assert clone.run("compile-llama").returncode == 0
    assert clone.has_llama


def test_without_a_network_the_next_start_tries_again(clone: Clone) -> None:
    offline = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "1", "PIP_TIMEOUT": "1"}
    offline["PIP_INDEX_URL"] = "http://127.0.0.1:9/simple"
    first = clone.run("compile-llama", "behind", **offline)
    assert "the package index cannot be reached" in first.stderr
    assert clone.run("compile-llama", "behind").returncode == 0
    assert clone.has_llama


def test_what_does_not_run_on_this_cpu_is_not_installed(clone: Clone) -> None:
    (clone.root / ".ci" / "try_llama.py").write_text("import os\nos.abort()\n")
    done = clone.run("compile-llama", "behind")
    assert done.returncode == 1
    assert "could not be installed" in done.stderr
    assert not clone.has_llama


def path_with(folder: Path, **scripts: str) -> str:
    """A PATH on which these come first."""
    for name, script in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_missing_compiler_is_installed_where_that_needs_no_password(
    clone: Clone, tmp_path: Path
) -> None:
    path = path_with(
        tmp_path,
        sudo='[ "$1" = -n ] && shift; exec "$@"',
        apt_get=f'[ "$1" = update ] || printf "#!/bin/sh\\n" >{tmp_path}/new-c++; '
        f"[ ! -f {tmp_path}/new-c++ ] || chmod +x {tmp_path}/new-c++",
    )
    done = clone.run("compile-llama", "behind", CXX="new-c++", PATH=path)
    assert done.returncode == 0, done.stderr + clone.log
    assert "installing g++" in done.stderr
    assert clone.has_llama


@pytest.mark.parametrize("how", ["behind", ""])
def test_without_a_compiler_it_says_what_to_install(clone: Clone, tmp_path: Path, how: str) -> None:
    # Neither is a password asked for, nor anything installed.
    path = path_with(tmp_path, apt_get="exit 1", sudo="exit 1")
    done = clone.run("compile-llama", *filter(None, [how]), CXX="no-such-compiler", PATH=path)
    assert done.returncode == (0 if how else 1)
    assert "there is no C++ compiler" in done.stderr
    assert "apt-get install g++" in done.stderr


def command(clone: Clone, text: str) -> None:
    """What is run as `spillover`, where everything but llama.cpp is set up."""
    (clone.root / ".ci" / "setup").write_text("#!/bin/sh\n")
    program = clone.root / ".venv" / "bin" / "spillover"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_the_compile_ends_with_the_command_however_that_ends(
    clone: Clone, ending: signal.Signals
) -> None:
    command(clone, 'echo "$@" >&2; exec sleep 1000')
    server = clone.start_held("start", "serve", "--port", "9000")
    os.kill(server.pid, ending)  # the process that was started has become the command
    said = said_by(server)
    assert "serve --port 9000" in said
    assert "goes on with it" in said
    assert clone.reached is not None
    assert clone.reached.read() == ""


def test_a_chat_is_not_disturbed(clone: Clone) -> None:
    command(clone, 'read -r line; echo "heard $line"')
    chat = clone.start_held("start", "chat")
    clone.release()
    assert clone.reached is not None
    assert clone.reached.read() == ""
    answer, said = chat.communicate("hello\n", timeout=TIMEOUT_S)
    assert answer == "heard hello\n"
    assert "at the lowest priority" not in said
    assert "% (" not in said


def test_where_llama_is_installed_only_the_command_runs(clone: Clone) -> None:
    assert clone.run("compile-llama").returncode == 0
    command(clone, 'echo "$@"')
    done = clone.run("start", "serve")
    assert done.stdout == "serve\n"
    assert done.stderr == ""
