"""New files and folders are there completely or not at all, for whom the user wants, and what went
wrong is said."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from spillover.quantize import new_file
from spillover.quantize.errors import QuantizeError
from tests.quantize.gguf.places import CONFIG
from tests.tiny_gguf import write_model

Make = Callable[[Path], AbstractContextManager[Path]]

KINDS = pytest.mark.parametrize("make", [new_file.new_file, new_file.new_folder])


@pytest.fixture
def careful() -> Iterator[None]:
    """The user's files are for nobody else."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@KINDS
def test_others_may_read_it_only_if_the_umask_lets_them(
    make: Make, careful: None, tmp_path: Path
) -> None:
    with make(tmp_path / "new"):
        pass
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) & 0o077 == 0
    os.umask(0o022)
    with make(tmp_path / "public"):
        pass
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) & 0o077 in (0o044, 0o055)


@KINDS
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_is_said_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="disk is full: free some space"), make(tmp_path / "m"):
        Path("/dev/full").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_fails_on_a_full_disk_does_not_seem_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1 << 40, 0])
    monkeypatch.setattr(new_file, "_free_bytes", lambda target: next(free))
    with pytest.raises(QuantizeError, match="disk is full"), new_file.new_file(tmp_path / "m"):
        raise QuantizeError("llama.cpp cannot quantize m: iostream error")


@KINDS
def test_too_little_space_is_said_before_anything_is_written(
    make: Callable[[Path, int], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    begun = False
    refused = pytest.raises(QuantizeError, match=r"takes \d+ MB.*are free")
    with refused, make(tmp_path / "new" / "m", 1 << 60):
        begun = True
    assert not begun
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_the_name_comes_when_the_content_is_on_the_disk(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str | int] = []
    flush, replace = os.fsync, os.replace

    def flushed(file: int) -> None:
        flush(file)
        steps.append(os.fstat(file).st_ino)

    def replaced(source: Path, target: Path) -> None:
        replace(source, target)
        steps.append(target.name)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    with make(tmp_path / "m") as scratch:
        file = scratch / "weights" if scratch.is_dir() else scratch
        file.write_bytes(b"x")
        number = file.stat().st_ino
    assert steps == [number, "m"]


def test_a_file_that_grows_is_written_to_the_disk_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    flush = os.fsync

    def flushed(file: int) -> None:
        flush(file)
        sizes.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(new_file, "_AT_ONCE_BYTES", 3)
    path = tmp_path / "m"
    for content in (b"", b"12", b"1234"):
        path.write_bytes(content)
        with new_file.flushing(path) as step:
            step()
    assert sizes == [4]


@KINDS
def test_what_somebody_else_made_meanwhile_is_left_alone(make: Make, tmp_path: Path) -> None:
    """A file was replaced by the one that took longer."""
    target = tmp_path / "m"
    with pytest.raises(QuantizeError, match="m exists"), make(target):
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


@KINDS
def test_a_place_that_is_no_folder_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(QuantizeError, match=r"file.*choose another place") as refused,
        make(tmp_path / "file" / "m.gguf"),
    ):
        pass
    assert "full" not in str(refused.value)


@KINDS
def test_what_goes_wrong_elsewhere_is_not_said_of_the_new_one(make: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), make(tmp_path / "m"):
        (tmp_path / "source").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_killed_during_the_check_leaves_nothing(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source.gguf", CONFIG)
    made = tmp_path / "made"
    code = """if True:
        import os, sys
        from pathlib import Path
        from spillover.quantize.gguf.recipe import Recipe
        from spillover.quantize.gguf.run import run

        def die(what, n_done, n_all):
            if what == "checking":
                assert [*target.parent.iterdir()]
                os.kill(os.getpid(), 9)

        source, target = map(Path, sys.argv[1:])
        run(source, target, Recipe(file_type="Q8_0"), die, n_threads=1)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(made / "m.gguf")], stderr=subprocess.PIPE
    ) as parent:
        assert parent.stderr is not None
        said = parent.stderr.read()  # until the child, which has inherited it, has ended, too
    assert b"Traceback" not in said
    assert list(made.iterdir()) == []


def test_an_error_of_the_disk_is_told_although_a_later_write_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x" * (33 << 20))
    errors = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fsync(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(QuantizeError, match="Input/output error"), new_file.flushing(path) as flush:
        flush()
