"""What is on disk is not read again after a restart; what is damaged or foreign is not used."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.edge_server import cli
from spillover.models.catalogue import find
from spillover.runtime.backend import Backend, Rows, SavedKv, Tokens
from spillover.runtime.files.json_file import fingerprint
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.kv_cache import prefix_files
from spillover.runtime.kv_cache.prefix_disk import LEAST_TOKENS, PrefixDisk, PrefixDiskOptions
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefixes
from spillover.runtime.options import EngineOptions, PrefixDiskChoice
from tests import tiny_memories
from tests.loading import load
from tests.runtime.kv_cache.conversations import Conversations
from tests.runtime.models import close

OPTIONS = EngineOptions(n_parallel=2, n_prefix_cached=2, n_kv=2048, n_ctx=1024, n_threads=1)
N_PREAMBLE = LEAST_TOKENS + 20


def bundled(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(find(name).path)


MODELS: dict[str, Callable[[Path], Path]] = {
    "gguf": bundled("storyteller"),
    "onnx": bundled("storyteller-onnx"),
    "windowed": lambda folder: tiny_memories.write_windowed(folder / "model.gguf"),
    "hybrid": lambda folder: tiny_memories.write_hybrid(folder / "model.gguf"),
}


@pytest.fixture(scope="module", params=["gguf", "onnx", "windowed"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backend(model: Path) -> Iterator[Backend]:
    backend = load(model, "tiny", OPTIONS).backend
    yield backend
    backend.close()


on_one_model = pytest.mark.parametrize("model", ["gguf"], indirect=True)
"""What a file is of does not matter."""


class Device:
    """A cache folder, and the processes that use it one after the other."""

    def __init__(self, backend: Backend, model: Path, cache_dir: Path) -> None:
        self.backend = backend
        self.cache_dir = cache_dir
        self._model = model

    def options(self, keeps: PrefixDiskChoice = "instructions") -> PrefixDiskOptions:
        saver = self.backend.saver
        assert saver is not None
        return PrefixDiskOptions(
            cache_dir=self.cache_dir,
            digest=ModelDigest([self._model] if self._model.is_file() else [], self.cache_dir),
            facts=(self.backend.info.library, saver.layout),
            max_bytes=64 << 20,
            keeps=keeps,
        )

    def start(self, options: PrefixDiskOptions | None = None) -> Conversations:
        return Conversations(self.backend, saved_bytes=64 << 20, disk=options or self.options())

    def files(self) -> list[Path]:
        return sorted(self.cache_dir.glob("prefixes/*/*.kv"))


@pytest.fixture
def device(backend: Backend, model: Path, tmp_path: Path) -> Device:
    return Device(backend, model, tmp_path)


class Folder:
    """The files of one model, without the model."""

    def __init__(self, cache_dir: Path) -> None:
        model = cache_dir / "model"
        model.write_bytes(b"weights")
        digest = ModelDigest([model], cache_dir)
        self._options = PrefixDiskOptions(
            cache_dir=cache_dir, digest=digest, facts=(), max_bytes=1 << 20, keeps="all"
        )
        identity = fingerprint(digest.compute(lambda: False) or "")
        self.files = prefix_files.PrefixFiles(cache_dir, identity, self._options.max_bytes)
        self._woken = threading.Event()

    def start(self, saved: SavedPrefixes) -> PrefixDisk:
        return PrefixDisk(saved, self._options, self._woken.set)

    def wait(self, disk: PrefixDisk) -> None:
        """Until a thread has moved something between memory and disk."""
        assert self._woken.wait(60)
        self._woken.clear()
        disk.take()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def state(n_bytes: int) -> SavedKv:
    return np.ones(n_bytes, dtype=np.uint8)


def text(n: int, salt: int) -> Tokens:
    return np.random.RandomState(salt).randint(2, 96, n).astype(np.int32)


PREAMBLE = text(N_PREAMBLE, 0)


def talk(salt: int) -> Tokens:
    return np.append(PREAMBLE, text(15, salt))


def write_preamble(device: Device) -> None:
    """By two conversations that begin with it."""
    with closing(device.start()) as conversations:
        for salt in (1, 2):
            conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(1)
    assert len(device.files()) == 1


def test_instructions_that_were_used_twice_are_not_read_again_after_a_restart(
    device: Device,
) -> None:
    write_preamble(device)
    with closing(device.start()) as conversations:
        logits = conversations.answer(talk(3))
        assert conversations.n_held == N_PREAMBLE
        assert close(device.backend, logits, conversations.cold(talk(3)))
        assert conversations.counts.n_restored == 1


def test_the_words_of_conversations_do_not_land_on_disk(device: Device) -> None:
    with closing(device.start()) as conversations:
        long = np.append(PREAMBLE, text(400, 1))
        for _ in range(3):
            conversations.answer(long, n_answer=1, n_preamble=N_PREAMBLE)
            conversations.answer(text(500, 2), n_answer=1)
        conversations.wait_for_files(1)
    [path] = device.files()
    folder = prefix_files.PrefixFiles(device.cache_dir, path.parent.name, 64 << 20)
    [(tokens, origin, _)] = folder.states()
    assert (tokens.tolist(), origin) == (PREAMBLE.tolist(), 0)


def test_with_all_long_conversations_go_on_after_a_restart(device: Device) -> None:
    options = device.options("all")
    first = np.append(PREAMBLE, text(40, 1))
    with closing(device.start(options)) as conversations:
        conversations.answer(first, n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(2)
        kept = np.append(first, text(1, 9))
        # A short turn is not worth a file; with the next one it is.
        conversations.answer(np.append(kept, text(40, 3)), n_answer=1, n_preamble=N_PREAMBLE)
        assert len(device.files()) == 2
    with closing(device.start(options)) as conversations:
        again = np.append(kept, text(20, 4))
        logits = conversations.answer(again)
        assert conversations.n_held == len(kept)
        assert close(device.backend, logits, conversations.cold(again))


@pytest.mark.parametrize("model", ["hybrid"], indirect=True)
@pytest.mark.parametrize("keeps", ["instructions", "all"])
def test_memories_that_cannot_be_put_together_are_not_written(
    device: Device, keeps: PrefixDiskChoice
) -> None:
    """The state of a conversation was written as that of its instructions, and ended the worker
    after each restart."""
    for _ in range(2):
        with closing(device.start(device.options(keeps))) as conversations:
            for salt in (1, 2, 3):
                wanted = conversations.cold(talk(salt))
                logits = conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
                assert close(device.backend, logits, wanted)
        assert device.files() == []


@on_one_model
def test_a_state_that_cannot_be_restored_is_tried_once(device: Device) -> None:
    """It was tried for each prompt that begins like it, whatever was wrong with it."""
    write_preamble(device)
    [path] = device.files()
    folder = prefix_files.PrefixFiles(device.cache_dir, path.parent.name, 64 << 20)
    [(tokens, origin, stored)] = folder.states()
    state = folder.read(stored)
    assert state is not None
    saver = device.backend.saver
    assert saver is not None
    device.backend.decode([Rows(0, 0, PREAMBLE[:100], False)])
    folder.write(tokens, origin, saver.save(0, 0, 100))
    with closing(device.start()) as conversations:
        logits = conversations.answer(talk(3))
        assert conversations.n_held == 0
        assert close(device.backend, logits, conversations.cold(talk(3)))
    assert device.files() == [path]  # in a larger context it may be of use


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


@on_one_model
def test_what_had_to_leave_memory_is_read_from_disk_again(device: Device) -> None:
    """Only once: what was read last counted as just read for ever."""
    write_preamble(device)
    with closing(device.start()) as conversations:
        for salt in (3, 4):
            conversations.answer(talk(salt))
            assert conversations.n_held == N_PREAMBLE
            conversations.forget()
        assert conversations.counts.n_restored == 2


def test_a_prompt_does_not_wait_for_more_than_fits_into_memory(folder: Folder) -> None:
    """Each state that was read took the place of another one of the same prompt, and the prompt,
    with all behind it, waited for ever."""
    folder.files.write(PREAMBLE, 0, state(60))
    folder.files.write(talk(1), N_PREAMBLE, state(50))
    saved = SavedPrefixes(100)
    with closing(folder.start(saved)) as disk:
        saved.fill(saved.nodes(talk(1))[1], state(50))
        prompt = np.append(talk(1), text(90, 7))
        for _ in range(4):
            if not disk.fetch(prompt, 0, lambda n_bytes: True):
                break
            folder.wait(disk)
        assert not disk.fetch(prompt, 0, lambda n_bytes: True)
        assert saved.n_dropped == 0


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


def test_what_stands_alone_is_not_written(folder: Folder) -> None:
    """Each turn of a conversation was written from its first word on."""
    saved, turns, last = SavedPrefixes(1000), text(900, 1), text(300, 2)
    with closing(folder.start(saved)) as disk:
        for tokens in (turns[:300], turns[:600], turns, last):
            assert saved.put(tokens, 0, state(10))
            disk.write(tokens)
        while disk.n_written < 2:
            folder.wait(disk)
    assert {len(tokens) for tokens, _, _ in folder.files.states()} == {300}


@on_one_model
def test_without_a_thread_for_the_disk_answers_go_on(device: Device) -> None:
    """At the end of the program, or where the system gives none, the worker died of it."""
    write_preamble(device)
    with closing(device.start()) as conversations:
        conversations.end_disk_threads()
        conversations.answer(talk(3))
        assert conversations.n_held == 0
        for _ in range(3):
            conversations.answer(np.append(text(300, 7), text(5, 1)), 1, n_preamble=300)
        assert conversations.counts.n_written == 0


@on_one_model
def test_another_model_of_the_same_name_gets_nothing(device: Device, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"first")
    before = replace(device.options(), digest=ModelDigest([model], device.cache_dir))
    with closing(device.start(before)) as conversations:
        for salt in (1, 2):
            conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(1)
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(model)
    after = replace(before, digest=ModelDigest([model], device.cache_dir))
    with closing(device.start(after)) as conversations:
        conversations.answer(talk(3), n_answer=1, n_preamble=N_PREAMBLE)
        assert conversations.n_held == 0
        conversations.answer(talk(4), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(1)
    with closing(device.start(after)) as conversations:
        assert conversations.counts.n_saved == 0
        conversations.answer(talk(5))
        assert conversations.n_held == N_PREAMBLE


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


@on_one_model
def test_the_command_shows_what_is_on_disk_and_removes_it(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPILLOVER_CACHE_DIR", str(device.cache_dir))
    write_preamble(device)
    n_bytes = device.files()[0].stat().st_size
    assert cli.run(["prefixes", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["n"], shown["bytes"], shown["keeps"]) == (1, n_bytes, "instructions")
    unfinished = device.files()[0].with_suffix(".part")  # its worker was killed
    unfinished.write_bytes(b"words")
    assert cli.run(["prefixes", "--clear"]) == 0
    said = capsys.readouterr()
    assert "removed 2 files," in said.err
    assert "on disk: 0 files, 0.0 MiB" in said.out
    assert device.files() == []
    assert not unfinished.exists()
