"""ONNX Runtime of 1.29 and later reports home unless it is told not to; nothing may leave here."""

from __future__ import annotations

import ast
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.models import MAKERS

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the filter that sees sockets is Linux's",
)

ANSWER = """
import sys
from tests.runtime.onnx.no_sockets import forbid_sockets
forbid_sockets()
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest
request = GenerationRequest(prompt="Once", max_tokens=40, ignore_eos=True)
with LocalEngine(sys.argv[1]) as engine:
    for event in engine.stream(request):
        print(type(event).__name__, flush=True)
"""
SOCKET = (
    "from tests.runtime.onnx.no_sockets import *; import socket; forbid_sockets(); socket.socket()"
)
BARE_IMPORT = (
    "from tests.runtime.onnx.no_sockets import *; forbid_sockets(REFUSE); import onnxruntime;"
    " print(onnxruntime.__version__)"
)


def run(home: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """*code* in a process with nothing of this user's."""
    # ONNX Runtime reports nothing where CI is set, which is not what is to be shown here.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_")) and k != "CI"}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), *_paths()])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_an_answer_opens_no_socket_and_leaves_no_file(tmp_path: Path) -> None:
    model = MAKERS["onnx-int8"](tmp_path / "model")
    home = tmp_path / "home"
    home.mkdir()
    ended = run(home, ANSWER, str(model))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-1] == "Finished"
    assert [name for name in files_in(home) if not name.startswith(".cache/spillover/")] == []


def test_the_filter_would_have_seen_a_socket(tmp_path: Path) -> None:
    assert run(tmp_path, SOCKET).returncode == -signal.SIGSYS


def test_without_the_switch_there_would_have_been_a_file(tmp_path: Path) -> None:
    ended = run(tmp_path, BARE_IMPORT)
    found = re.match(r"(\d+)\.(\d+)", ended.stdout)
    assert found is not None, ended.stderr
    if (int(found[1]), int(found[2])) < (1, 29):
        pytest.skip("this onnxruntime has no telemetry yet")
    assert files_in(tmp_path) != []


def test_one_module_alone_imports_the_library() -> None:
    folders = ("runtime", "quantize", "edge_server", "cloud_fallback", "models")
    guilty = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if _imports(path, "onnxruntime")
    ]
    assert guilty == []
    assert 'import_module("onnxruntime")' in (ROOT / "runtime/onnx/library.py").read_text()


def _imports(path: Path, package: str) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.split(".")[0] == package for name in names):
            return True
    return False
