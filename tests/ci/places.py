"""A clone of the repository in which the tests of the scripts work."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

TIMEOUT_S = 120


class Clone:
    """Runs scripts in *root*; what still runs at the end is killed."""

    def __init__(self, *, root: Path, environ: Mapping[str, str]) -> None:
        self.root = root
        self.environ = dict(environ)
        self.reached: IO[str] | None = None
        self._started: list[subprocess.Popen[str]] = []

    @property
    def n_builds(self) -> int:
        builds = Path(self.environ["BUILDS"])
        return len(builds.read_text()) if builds.exists() else 0

    @property
    def log(self) -> str:
        return (self.root / ".venv" / "llama.log").read_text()

    @property
    def has_llama(self) -> bool:
        python = self.root / ".venv" / "bin" / "python"
        asked = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
        return asked.returncode == 0

    @property
    def cached(self) -> set[str]:
        """What the cache keeps, besides the folder of each compile and the lock."""
        cache = Path(self.environ["XDG_CACHE_HOME"]) / "spillover" / "llama.cpp"
        return {path.name for path in cache.glob("*/*")}

    def start(self, script: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """In a process group of its own; standard input is a pipe."""
        process = subprocess.Popen(
            [self.root / ".ci" / script, *arguments],
            env={**self.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Until it ends by itself; standard input stays open."""
        process = self.start(script, *arguments, **environ)
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.read()
        code = process.wait(TIMEOUT_S)
        return subprocess.CompletedProcess(process.args, code, process.stdout.read(), said)

    def start_held(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, in the middle of its compile. `reached` ends when the compiler does."""
        reached, gate = self.root / "reached", self.root / "gate"
        os.mkfifo(reached)
        os.mkfifo(gate)
        process = self.start(script, *arguments, REACHED=str(reached), GATE=str(gate))
        self.reached = reached.open()
        return process

    def release(self) -> None:
        """Let the compile that is held go on."""
        (self.root / "gate").open("w").close()

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if self.reached is not None:
            self.reached.close()
