"""The official JavaScript clients, and frameworks of Python, against a real server: each streams,
calls tools, leaves, reads usage and raises errors of its own classes. See tests/clients."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.edge_server.conftest import Server

CLIENTS = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
HOW = "run `.ci/setup test` and `.ci/setup-clients`, as `make test` does"
LIMIT_S = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose context takes far longer to fill than a client waits that has left."""
    server = Server(tmp_path_factory.mktemp("home"), "--n-ctx", "32768", "--parallel", "2")
    yield server
    assert server.stop() == 0


def ask(server: Server, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a client in its folder, where it finds its packages."""
    environment = {**os.environ, "SPILLOVER_URL": server.url}
    return subprocess.run(
        command,
        cwd=CLIENTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(path.name for path in CLIENTS.glob("*.test.mjs")))
def test_a_client_of_javascript(server: Server, name: str) -> None:
    if not shutil.which("node") or not (CLIENTS / "node_modules").is_dir():
        pytest.skip(f"no client of JavaScript was asked: {HOW}")
    done = ask(server, "node", "--test", "--test-reporter=tap", name)
    assert done.returncode == 0, done.stdout + done.stderr
    (n_passed,) = re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert int(n_passed) > 0


@pytest.mark.parametrize("name", sorted(path.name for path in CLIENTS.glob("*_client.py")))
def test_a_framework_of_python(server: Server, name: str) -> None:
    if not PYTHON.exists():
        pytest.skip(f"no framework was asked: {HOW}")
    done = ask(server, PYTHON, name)
    assert done.returncode == 0, done.stdout + done.stderr
