"""New files are linked into the editable install without a moment in which the others are gone."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

SETUP = """\
[options]
packages =
    spillover
    spillover.runtime
package_dir =
    spillover = .

[options.package_data]
spillover.runtime = *.toml
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with two files, whose install knows one of them and another that is gone."""
    root = tmp_path / "clone"
    (root / "runtime").mkdir(parents=True)
    (root / ".ci").mkdir()
    for script in ("common", "link-files"):
        (root / ".ci" / script).symlink_to(ROOT / ".ci" / script)
    (root / "setup.cfg").write_text(SETUP)
    (root / "__init__.py").write_text("")
    (root / "runtime" / "old.py").write_text("")
    environment = root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    tree = root / "build" / "tree"
    (tree / "spillover" / "runtime").mkdir(parents=True)
    (tree / "spillover" / "__init__.py").symlink_to(root / "__init__.py")
    (tree / "spillover" / "runtime" / "gone.py").symlink_to(root / "runtime" / "gone.py")
    (tree / "spillover" / "runtime" / "old.py").symlink_to(root / "runtime" / "old.py")
    (site / "__editable__.spillover-0.1.0.pth").write_text(f"{tree}\n")
    setuptools = find_spec("setuptools")
    assert setuptools is not None
    assert setuptools.origin is not None
    (site / "setuptools.pth").write_text(f"{Path(setuptools.origin).parents[1]}\n")
    hashed = "source .ci/common; links_hash >.venv/linked"
    subprocess.run(["bash", "-c", hashed], cwd=root, check=True)
    return root


def link(clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / ".ci" / "link-files"], capture_output=True, text=True, timeout=120, check=False
    )


def test_links_come_and_go_with_the_files_and_the_others_stay(clone: Path) -> None:
    package = clone / "build" / "tree" / "spillover"
    old = (package / "runtime" / "old.py").lstat().st_ino
    for name in ("new.py", "new.toml", "other.txt"):
        (clone / "runtime" / name).write_text("")
    linked = link(clone)
    assert linked.returncode == 0, linked.stderr
    names = {path.name for path in (package / "runtime").iterdir()}
    assert names == {"old.py", "new.py", "new.toml"}
    assert (package / "runtime" / "new.py").resolve() == clone / "runtime" / "new.py"
    assert (package / "runtime" / "old.py").lstat().st_ino == old


def test_another_setup_is_for_pip(clone: Path) -> None:
    (clone / "setup.cfg").write_text(SETUP.replace("    spillover.runtime\n", "", 1))
    assert link(clone).returncode != 0


def test_what_is_not_linked_yet_is_for_pip(clone: Path) -> None:
    (clone / ".venv" / "linked").unlink()
    assert link(clone).returncode != 0
