"""What is on disk is not read again after a restart."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from spillover.edge_server import cli
from spillover.runtime.backend import Rows
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.kv_cache import prefix_files, prefix_saver
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefixes
from spillover.runtime.options import PrefixDiskChoice
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


def test_instructions_that_were_used_twice_are_not_read_again_after_a_restart(
    device: Device,
) -> None:
    write_preamble(device)
    with closing(device.start()) as conversations:
        logits = conversations.answer(talk(3))
        assert conversations.n_held == N_PREAMBLE
        assert close(device.backend, logits, conversations.cold(talk(3)))
        assert conversations.counts.n_restored == 1


def test_instructions_are_saved_for_the_disk_in_parts_beside_a_running_answer(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_saver, "N_PART", 50)
    with closing(device.start()) as conversations:
        conversations.run(text(30, 5))
        for salt in (1, 2):
            conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.save_all_parts()
        conversations.wait_for_files(6)
    with closing(device.start()) as conversations:
        logits = conversations.answer(talk(3))
        assert conversations.n_held == N_PREAMBLE
        assert close(device.backend, logits, conversations.cold(talk(3)))


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
