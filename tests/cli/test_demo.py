"""`spillover demo` shows a handoff and the way back on any machine, whatever its owner has set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HOOK = """
import os, sys
def see(name, arguments):
    if name == "socket.connect":
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{arguments[1]!r}\\n")
sys.addaudithook(see)
"""


def test_an_answer_goes_to_the_pretended_cloud_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    own = tmp_path / "config" / "spillover" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('fallback = "nonsense"\n')
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "SEEN": str(tmp_path / "seen"),
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(own.parent.parent),
        "SPILLOVER_FALLBACK": "never",
        "SPILLOVER_API_KEY": "a-key-of-the-owner",
    }
    done = subprocess.run(
        [sys.executable, "-m", "spillover.edge_server.cli", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "⟦as you asked → pretend-cloud/storyteller⟧" in done.stdout
    assert re.search(
        r"⟦pretend-cloud/storyteller at http://127\.0\.0\.1:\d+/v1: [^⟧]+⟧", done.stdout
    )
    assert done.stdout.count("→ storyteller⟧") == 1
    assert re.search(
        r"tokens: storyteller \d+, then pretend-cloud/storyteller \d+, then storyteller \d+",
        done.stdout,
    )
    assert "Traceback" not in done.stderr
    connections = (tmp_path / "seen").read_text().splitlines()
    assert connections
    assert all("'127.0.0.1'" in address for address in connections if address.startswith("("))
