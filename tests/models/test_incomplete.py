"""What is kept of a file that is being fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from spillover.models.pull import incomplete
from spillover.models.pull.incomplete import IncompleteFile, Origin

ORIGIN = Origin("https://example.org/m.gguf", '"1"')


def append(part: IncompleteFile, n_kept: int, *chunks: bytes) -> None:
    with part.appending(n_kept, ORIGIN) as write:
        for chunk in chunks:
            write(chunk)


def test_what_came_is_known_to_the_next_process(tmp_path: Path) -> None:
    append(IncompleteFile(tmp_path / "m"), 0, b"abc", b"def")
    part = IncompleteFile(tmp_path / "m")
    assert part.known() == (ORIGIN, 6)
    append(part, 6, b"ghi")
    assert part.sha256() == hashlib.sha256(b"abcdefghi").hexdigest()
    part.publish()
    assert (tmp_path / "m").read_bytes() == b"abcdefghi"


def test_the_digest_is_that_of_the_file_however_it_came(tmp_path: Path) -> None:
    part = IncompleteFile(tmp_path / "m")
    for n_kept, chunk in ((0, b"abc"), (3, b"def"), (2, b"XY"), (0, b"gh"), (2, b"i")):
        append(part, n_kept, chunk)
        assert part.sha256() == hashlib.sha256(part.path.read_bytes()).hexdigest()


def test_what_may_not_have_reached_the_disk_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power a file may have its length and zeros at its end."""
    monkeypatch.setattr(incomplete, "_SYNC_BYTES", 4)
    part = IncompleteFile(tmp_path / "m")
    with part.appending(0, ORIGIN) as write:
        for chunk in (b"ab", b"cdef", b"gh"):
            write(chunk)
        assert IncompleteFile(tmp_path / "m").known() == (ORIGIN, 6)
        assert part.n_bytes == 8


def test_a_beginning_of_another_file_is_not_taken_for_its_successor(tmp_path: Path) -> None:
    part = IncompleteFile(tmp_path / "m")
    append(part, 0, b"abc")
    with part.appending(0, Origin("https://example.org/other.gguf", '"2"')) as write:
        write(b"xyz")
        assert IncompleteFile(tmp_path / "m").known()[1] == 0


@pytest.mark.parametrize("mark", [b"", b"{", b'{"origin": 1}'])
def test_a_beginning_whose_origin_cannot_be_read_is_none(tmp_path: Path, mark: bytes) -> None:
    part = IncompleteFile(tmp_path / "m")
    append(part, 0, b"abc")
    (tmp_path / "m.incomplete.json").write_bytes(mark)
    assert part.known() == (None, 0)
