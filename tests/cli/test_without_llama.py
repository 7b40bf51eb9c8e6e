"""Commands where llama.cpp is not installed: ONNX models run, and what is missing is named.

`.ci/check-wheel` shows the same with the real package in an environment that has no llama.cpp.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_memories

WITHOUT_LLAMA = Path(__file__).parent.parent / "without_llama"
INSTALL = "pip install 'spillover[llama]'"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.touch()
    return file


def spillover(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if "SPILLOVER" not in name}
    command = [sys.executable, "-m", "spillover.edge_server.cli", *arguments]
    return subprocess.run(
        [*command, "--config", str(config)],
        env={**environ, "PYTHONPATH": str(WITHOUT_LLAMA)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("named", [(), ("storyteller",)])
def test_the_bundled_model_answers_from_its_onnx_form(config: Path, named: tuple[str, ...]) -> None:
    done = spillover(config, "run", *named, "--raw", "Once upon", "--n-predict", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "storyteller runs on ONNX Runtime, because llama.cpp is not installed" in done.stderr
    assert INSTALL in done.stderr


def test_a_gguf_file_that_only_llama_reads_says_what_to_install(
    config: Path, tmp_path: Path
) -> None:
    model = tiny_memories.write_recurrent(tmp_path / "recurrent.gguf")
    done = spillover(config, "run", str(model), "Once upon")
    assert done.returncode == 1
    assert INSTALL in done.stderr
    assert "Traceback" not in done.stderr
    compared = spillover(config, "engines", str(model))
    assert compared.returncode == 1
    assert INSTALL in compared.stderr
    assert "Traceback" not in compared.stderr


def test_the_doctor_says_so_and_finds_nothing_wrong(config: Path) -> None:
    done = spillover(config, "doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["ok"]
    assert found["model"].endswith("model.onnx")
    assert found["self_test"]["card"]["name"] == "storyteller"
    (problem,) = [problem for problem in found["problems"] if "llama.cpp" in problem["what"]]
    assert not problem["blocks"]
    assert INSTALL in problem["todo"]
