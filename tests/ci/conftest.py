"""A copy of the scripts, an environment of its own, and a small package called llama-cpp-python.

Its build backend says what it does, waits where it is asked to, and goes on where it was.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ci.places import Clone

ROOT = Path(__file__).parents[2]
VERSION = "0.3.99"
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = f"""\
import os
import zipfile

INFO = "llama_cpp_python-{VERSION}.dist-info"
METADATA = "Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {VERSION}\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.mkdir(os.path.join(folder, INFO))
    for name, text in (("METADATA", METADATA), ("WHEEL", WHEEL)):
        with open(os.path.join(folder, INFO, name), "w") as file:
            file.write(text)
    return INFO


def build_wheel(folder, config_settings=None, metadata_directory=None):
    built = config_settings["build-dir"]
    n = 2 if os.path.isdir(built) else 4  # steps that are left
    os.makedirs(built, exist_ok=True)
    with open(os.environ["BUILDS"], "a") as file:
        file.write("x")
    for step in range(1, n):
        print(f"[{{step}}/{{n}}] c++", flush=True)
    if "REACHED" in os.environ:
        reached = open(os.environ["REACHED"], "w")  # open until this process ends
        open(os.environ["GATE"]).close()
    if "FAILS" in os.environ:
        raise SystemExit("ninja: build stopped")
    print(f"[{{n}}/{{n}}] c++", flush=True)
    name = "llama_cpp_python-{VERSION}-py3-none-any.whl"
    files = {{"llama_cpp/__init__.py": ""}}
    files |= {{f"{{INFO}}/METADATA": METADATA, f"{{INFO}}/WHEEL": WHEEL}}
    record = f"{{INFO}}/RECORD"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(record, "".join(f"{{path}},,\\n" for path in (*files, record)))
    return name
"""


def _write_source(folder: Path) -> None:
    """What `pip download` finds as the newest llama-cpp-python."""
    name = f"llama_cpp_python-{VERSION}"
    info = f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {VERSION}\n"
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for path, text in (
            ("pyproject.toml", PYPROJECT),
            ("backend.py", BACKEND),
            ("PKG-INFO", info),
        ):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but pip."""
    folder = tmp_path_factory.mktemp("environment") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    return folder


@pytest.fixture
def clone(tmp_path: Path, environment: Path) -> Iterator[Clone]:
    """Our scripts where nothing is installed."""
    root = tmp_path / "clone"
    root.mkdir()
    shutil.copytree(ROOT / ".ci", root / ".ci")
    shutil.copytree(environment, root / ".venv", symlinks=True)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (root / ".ci" / "try_llama.py").write_text("import llama_cpp\n")
    (tmp_path / "index").mkdir()
    _write_source(tmp_path / "index")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    clone = Clone(
        root=root,
        environ={
            **kept,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path / "index"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "BUILDS": str(tmp_path / "builds"),
        },
    )
    yield clone
    clone.close()
