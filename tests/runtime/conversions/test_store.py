"""The folder of conversions: nothing in it is trusted, and nothing grows without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spillover.models.file_lock import try_lock
from spillover.runtime.conversions import record
from spillover.runtime.conversions import store as conversion_store
from spillover.runtime.conversions.record import EXPORTER, MAX_DEATHS, Conversion
from spillover.runtime.conversions.store import (
    RECORD,
    ConversionStore,
    describe_files,
    fresh_note,
    is_intact,
)
from spillover.runtime.files.json_file import write_json


@pytest.fixture
def store(tmp_path: Path) -> ConversionStore:
    return ConversionStore(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


def converted(
    store: ConversionStore, source: Path, letter: str = "a", *, exporter: int = EXPORTER
) -> Path:
    """A conversion as the exporter leaves it; its files hold no model."""
    digest = letter * 64
    store.claim()
    folder = store.folder_of(digest)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bytes(1000))
    (folder / "model.onnx.data").write_bytes(b"weights" * 1000)
    files = describe_files(folder)
    record = Conversion(digest=digest, exporter=exporter, n_ctx=128, files=files)
    write_json(folder / RECORD, record)
    note = fresh_note(source)
    assert note is not None
    store.write_note(msgspec.structs.replace(note, digest=digest))
    return folder


def test_a_conversion_is_found_by_its_digest(store: ConversionStore, source: Path) -> None:
    folder = converted(store, source)
    note = store.note_of(source)
    assert note is not None
    assert note.digest is not None
    assert store.find(note.digest) is not None
    assert is_intact(folder)
    assert store.find("b" * 64) is None


@pytest.mark.parametrize(
    "change", [lambda p: p.write_bytes(b"GGUF2"), lambda p: os.utime(p, (1, 1))]
)
def test_a_file_that_has_changed_is_another_file(
    store: ConversionStore, source: Path, change: Callable[[Path], None]
) -> None:
    converted(store, source)
    change(source)
    assert store.note_of(source) is None


def cut(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights")


def lose(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def garble(folder: Path) -> None:
    (folder / RECORD).write_bytes(b'{"digest": "')


@pytest.mark.parametrize("damage", [cut, lose, garble])
def test_a_damaged_conversion_is_not_found(
    store: ConversionStore, source: Path, damage: Callable[[Path], None]
) -> None:
    damage(converted(store, source))
    assert store.find("a" * 64) is None


def test_one_wrong_byte_is_noticed(store: ConversionStore, source: Path) -> None:
    folder = converted(store, source)
    content = bytearray((folder / "model.onnx.data").read_bytes())
    content[3000] ^= 1
    (folder / "model.onnx.data").write_bytes(content)
    assert store.find("a" * 64) is not None, "its files are as long as they were"
    assert not is_intact(folder)


@pytest.mark.parametrize("exporter", [1, EXPORTER + 1])
def test_another_exporters_work_is_not_served_and_goes(
    store: ConversionStore, source: Path, exporter: int
) -> None:
    """That of the first one was, though nobody had compared its weights with the file's."""
    folder = converted(store, source, exporter=exporter)
    assert store.find("a" * 64) is None
    store.sweep()
    assert not folder.exists()


def test_a_conversion_goes_with_its_model(store: ConversionStore, source: Path) -> None:
    folder = converted(store, source)
    store.sweep()
    assert folder.exists()
    source.unlink()
    store.sweep()
    assert not folder.exists()
    assert not list((store.folder / "sources").iterdir())


def test_a_disk_that_is_not_mounted_costs_no_conversion(
    store: ConversionStore, source: Path
) -> None:
    folder = converted(store, source)
    source.parent.rename(source.parent.with_name("elsewhere"))
    store.sweep()
    assert folder.exists()


def test_a_forgotten_file_takes_its_conversion_along(store: ConversionStore, source: Path) -> None:
    """Its folder may be gone, too, which looks like a disk that is not mounted."""
    folder = converted(store, source)
    source.unlink()
    source.parent.rmdir()
    store.forget(source)
    assert not folder.exists()


def test_what_was_half_written_goes(store: ConversionStore, source: Path) -> None:
    folder = converted(store, source)
    half = store.folder / ".making" / "b"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    store.sweep()
    assert [path.name for path in store.folder.iterdir() if path.name != "sources"] == [folder.name]


def test_the_least_recently_used_goes_first(store: ConversionStore, source: Path) -> None:
    folders = [converted(store, source, letter) for letter in "abc"]
    for age, folder in zip((3, 1, 2), folders, strict=True):
        os.utime(folder / RECORD, (age, age))
    store.note_use(folders[1])  # the oldest one is used now
    store.make_room(n_bytes=8_000, limit_bytes=25_000)
    assert [folder.exists() for folder in folders] == [True, True, False]
    store.make_room(n_bytes=8_000, limit_bytes=8_000)
    assert not any(folder.exists() for folder in folders)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_conversion_that_ends_every_worker_is_given_up_and_removed(
    store: ConversionStore, source: Path
) -> None:
    """It was removed at once, and made again for the next start, which it ended again."""
    folder = converted(store, source)
    for n in range(MAX_DEATHS):
        found = store.find("a" * 64)
        assert found is not None
        assert (found.given_up, bool(found.files)) == ("", True), n
        store.note_failure(folder, "it was ended by SIGSEGV", is_final=False)
    found = store.find("a" * 64)
    assert found is not None
    assert "SIGSEGV" in found.given_up
    assert found.files == {}
    assert names_in(folder) == [RECORD]
    store.sweep()
    assert store.find("a" * 64) == found, "why stays"


def test_a_worker_that_loads_it_makes_up_for_those_that_did_not(
    store: ConversionStore, source: Path
) -> None:
    folder = converted(store, source)
    for _ in range(MAX_DEATHS + 1):
        store.note_failure(folder, "it was ended by SIGKILL", is_final=False)
        store.note_use(folder)
    found = store.find("a" * 64)
    assert found is not None
    assert (found.given_up, bool(found.files)) == ("", True)


def test_other_versions_try_again(
    store: ConversionStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.note_failure(converted(store, source), "it gives no numbers", is_final=True)
    assert store.find("a" * 64) is not None
    monkeypatch.setattr(record, "library_version", lambda name: f"a new {name}")
    assert store.find("a" * 64) is None, "so that it is made again"


@pytest.mark.parametrize("facts", [{"refusal": "it is a mamba"}, {"n_died": MAX_DEATHS}])
def test_other_versions_try_again_what_was_not_converted(
    store: ConversionStore, source: Path, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only another exporter did, and none what had ended each try."""
    known = fresh_note(source)
    assert known is not None
    store.write_note(msgspec.structs.replace(known, **facts))
    note = store.note_of(source)
    assert note is not None
    assert (note.refusal, note.n_died) != ("", 0)
    monkeypatch.setattr(record, "library_version", lambda name: f"a new {name}")
    note = store.note_of(source)
    assert note is not None
    assert (note.refusal, note.n_died) == ("", 0)


def test_what_is_known_of_a_removed_conversion_takes_nobodys_room(
    store: ConversionStore, source: Path
) -> None:
    """Its record went first, as the oldest, and so it was made again."""
    broken, other = (converted(store, source, letter) for letter in "ab")
    store.note_failure(broken, "it gives no numbers", is_final=True)
    store.make_room(n_bytes=1, limit_bytes=1)
    assert (broken.exists(), other.exists()) == (True, False)


def test_what_a_process_did_not_get_to_remove_goes_later(
    store: ConversionStore, source: Path
) -> None:
    folder = converted(store, source)
    store.note_failure(folder, "it gives no numbers", is_final=True)
    (folder / "model.onnx.data").write_bytes(b"weights")
    store.sweep()
    assert names_in(folder) == [RECORD]


def test_only_so_many_files_are_remembered(
    store: ConversionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_store, "MOST_NOTES", 2)
    for letter in "abc":
        path = tmp_path / f"{letter}.gguf"
        path.write_bytes(b"GGUF")
        folder = converted(store, path, letter)
    notes = sorted((store.folder / "sources").iterdir(), key=lambda note: note.read_bytes())
    for age, note in enumerate(notes):
        os.utime(note, (age + 1, age + 1))
    store.sweep()
    assert len(list((store.folder / "sources").iterdir())) == 2
    assert folder.exists()
    assert not store.folder_of("a" * 64).exists()


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_others_can_neither_read_nor_make_a_conversion(
    store: ConversionStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(store, source)
    store.folder.chmod(0o777)
    assert store.find("a" * 64) is None
    store.claim()
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.find("a" * 64) is not None
    monkeypatch.setattr(os, "getuid", lambda: store.folder.stat().st_uid + 1)
    assert store.find("a" * 64) is None
    with pytest.raises(PermissionError, match="set cache_dir"):
        store.claim()


def test_nothing_outside_is_ever_removed(store: ConversionStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    store.folder.mkdir(parents=True)
    (store.folder / "link").symlink_to(other)
    store.discard(other)
    store.sweep()
    store.make_room(1, 0)
    assert other.exists()


def test_one_process_at_a_time_converts(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    with try_lock(path) as third:
        assert third
