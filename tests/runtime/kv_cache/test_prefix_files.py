"""A file that is damaged, foreign or of no use is not used; those that are in use stay."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.runtime.kv_cache import prefix_files
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefixes
from tests.runtime.kv_cache.conversations import text
from tests.runtime.kv_cache.on_disk import (
    N_PREAMBLE,
    PREAMBLE,
    Device,
    Folder,
    on_one_model,
    state,
    talk,
    write_preamble,
)
from tests.runtime.models import close


@on_one_model
def test_files_are_private(device: Device) -> None:
    write_preamble(device)
    [path] = device.files()
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)}
    assert list(modes.values()) == [0o600, 0o700, 0o700]
    key = device.cache_dir / "prefixes" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the state": lambda path: flip(path, -5),
    "a bit of the head": lambda path: flip(path, 40),
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "signed elsewhere": lambda path: (path.parent.parent / "key").write_bytes(b"x" * 32),
    "readable by others": lambda path: path.chmod(0o644),
    "a link": lambda path: path.symlink_to(path.rename(path.with_suffix(".other"))),
}


@on_one_model
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_as_it_was_written_is_removed_and_the_prompt_is_read(
    device: Device, damage: str
) -> None:
    write_preamble(device)
    [path] = device.files()
    DAMAGES[damage](path)
    with closing(device.start()) as conversations:
        logits = conversations.answer(talk(3))
        assert conversations.n_held == 0
        assert close(device.backend, logits, conversations.cold(talk(3)))
    assert device.files() == []


@on_one_model
def test_a_file_that_is_removed_while_it_is_known_costs_a_reading(device: Device) -> None:
    write_preamble(device)
    with closing(device.start()) as conversations:
        prefix_files.remove_all(device.cache_dir)
        conversations.answer(talk(3))
        assert conversations.n_held == 0


@on_one_model
def test_a_file_of_another_text_is_not_taken_for_the_prompt_s(device: Device) -> None:
    """It was signed and whole, so the answer began with somebody else's words."""
    with closing(device.start()) as conversations:
        for n, preamble in enumerate((PREAMBLE, text(N_PREAMBLE, 50)), start=1):
            for salt in (1, 2):
                prompt = np.append(preamble, text(15, salt))
                conversations.answer(prompt, n_answer=1, n_preamble=N_PREAMBLE)
            conversations.wait_for_files(n)
    with closing(device.start()) as conversations:
        first, second = device.files()
        content = first.read_bytes(), second.read_bytes()
        first.write_bytes(content[1])
        second.write_bytes(content[0])
        logits = conversations.answer(talk(3))
        assert conversations.n_held == 0
        assert close(device.backend, logits, conversations.cold(talk(3)))
    assert len(device.files()) == 1
    with closing(device.start()):
        assert device.files() == []


def test_what_a_file_hangs_on_may_be_longer(folder: Folder) -> None:
    """The file of who left a long text in its middle was removed at the next start."""
    long = text(600, 1)
    short = np.append(long[:400], text(100, 2))
    folder.files.write(long, 0, state(60))
    folder.files.write(short, 400, state(50))
    saved = SavedPrefixes(1000)
    with closing(folder.start(saved)):
        match = saved.find(np.append(short, text(5, 3)), on_disk=True)
        assert match is not None
        assert match.n_tokens == len(short)


@on_one_model
def test_what_was_used_least_recently_makes_room(device: Device) -> None:
    write_preamble(device)
    [path] = device.files()
    n_bytes = path.stat().st_size
    os.utime(path, (1, 1))
    options = replace(device.options(), max_bytes=int(2.5 * n_bytes))
    with closing(device.start(options)) as conversations:
        for salt in (30, 31, 32):
            other = text(N_PREAMBLE, salt)
            for _ in range(2):
                conversations.answer(np.append(other, text(5, 1)), 1, n_preamble=N_PREAMBLE)
            conversations.wait_for_files(salt - 29)
    assert path not in device.files()
    assert len(device.files()) == 2


@on_one_model
def test_what_is_used_from_memory_stays_on_disk(device: Device) -> None:
    """Instructions that each request had were the first to go: only what was read from its file
    counted as used."""
    write_preamble(device)
    [path] = device.files()
    n_bytes = path.stat().st_size
    options = replace(device.options(), max_bytes=int(2.5 * n_bytes))
    with closing(device.start(options)) as conversations:
        conversations.answer(talk(3), n_answer=1, n_preamble=N_PREAMBLE)
        for salt in (30, 31):
            other = text(N_PREAMBLE, salt)
            for _ in range(2):
                conversations.answer(np.append(other, text(5, 1)), 1, n_preamble=N_PREAMBLE)
            conversations.wait_for_files(salt - 29)
            os.utime(path, (1, 1))
            conversations.answer(talk(4), n_answer=1, n_preamble=N_PREAMBLE)
    assert path in device.files()
    assert len(device.files()) == 2


@on_one_model
def test_a_file_that_another_process_removed_is_written_again(device: Device) -> None:
    write_preamble(device)
    with closing(device.start()) as conversations:
        conversations.answer(talk(3), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait()
        prefix_files.remove_all(device.cache_dir)
        conversations.answer(talk(4), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait()  # until it is missed
        conversations.answer(talk(5), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(1)
    assert len(device.files()) == 1


def test_a_file_is_not_written_at_the_cost_of_what_it_hangs_on(folder: Folder) -> None:
    folder.files.write(PREAMBLE, 0, state(600_000))
    saved = SavedPrefixes(1 << 30)
    with closing(folder.start(saved)) as disk:
        saved.fill(saved.nodes(PREAMBLE)[0], state(600_000))
        for tokens, n_bytes in ((talk(1), 600_000), (talk(2), 300_000)):
            assert saved.put(tokens, N_PREAMBLE, state(n_bytes))
            disk.write(tokens)
        while disk.n_written < 1:
            folder.wait(disk)
    found = {(len(tokens), stored.n_bytes) for tokens, _, stored in folder.files.states()}
    assert found == {(N_PREAMBLE, 600_000), (len(talk(2)), 300_000)}


def test_a_file_that_became_useless_while_it_was_written_is_removed(folder: Folder) -> None:
    """It stayed until the next start, and nothing counted it."""
    saved, whole = SavedPrefixes(1 << 20), text(900, 1)
    with closing(folder.start(saved)) as disk:
        assert saved.put(whole[:300], 0, state(10))
        assert saved.put(whole, 300, state(10))
        disk.write(whole)
        saved.reclaim(1 << 20)
        assert saved.put(whole, 0, state(10))
        while disk._writing:
            folder.wait(disk)
        assert disk.n_written == 1
        while len(list(folder.files.states())) > 1:
            folder.wait(disk)
    assert [len(tokens) for tokens, _, _ in folder.files.states()] == [300]


def test_a_file_that_cannot_be_read_now_is_not_removed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good files were, when the process had too many others open or the system no memory."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    stored = folder.files.write(PREAMBLE, 0, state(60))
    for what in ("os.open", "saved_kv"):
        with monkeypatch.context() as patch:
            patch.setattr(f"spillover.runtime.kv_cache.prefix_files.{what}", refuse)
            assert folder.files.read(stored) is None
            found = list(folder.files.states())
            assert len(found) == (what == "saved_kv")
    assert folder.files.read(stored) is not None


@on_one_model
def test_what_hangs_on_a_file_that_cannot_be_read_now_is_not_removed(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, first = device.options("all"), np.append(PREAMBLE, text(300, 1))
    with closing(device.start(options)) as conversations:
        conversations.answer(first, n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(2)
    files, really = device.files(), prefix_files._open_private
    unread = files[0]

    def open_private(path: Path) -> object:
        if path == unread:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really(path)

    monkeypatch.setattr(prefix_files, "_open_private", open_private)
    for path in files:
        unread = path
        device.start(options).close()
        assert device.files() == files


@on_one_model
def test_without_a_private_folder_nothing_is_kept(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems that know no modes."""

    def refuse(path: Path) -> None:
        raise ValueError(f"{path} is not a private file")

    monkeypatch.setattr(prefix_files, "_open_private", refuse)
    for _ in range(2):  # the second time the model's digest is known at once
        with closing(device.start()) as conversations:
            for salt in range(1, 5):
                conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
    assert device.files() == []
