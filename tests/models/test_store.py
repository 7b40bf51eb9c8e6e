"""What is kept of pulled models, and how they are removed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from spillover.models.catalogue import find
from spillover.models.entry import CatalogueError
from spillover.models.pull.fetched import PullError
from spillover.models.pull.order import PullOptions
from spillover.models.pull.pull import pull
from spillover.models.store import ModelStore
from tests.models.fake_hub import FakeHub
from tests.models.pulling import MODEL, OPTIONS, fetch

# --- removal ------------------------------------------------------------------------------------


def test_removing_deletes_what_no_other_model_needs(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    first = fetch("hf:o/m", store)
    second = pull(
        "hf:o/m",
        store,
        PullOptions(total_bytes=1 << 33, free_bytes=1 << 33, name="second"),
        lambda *_: None,
    )
    assert store.remove(first) == 0
    assert find("second", store).path.is_file()
    assert store.remove(second) == len(MODEL)
    assert not Path(second.path).exists()


def test_the_model_pulled_last_is_known_though_the_clock_was_set_back(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without a clock of its own is in the past until it has asked for the time."""
    for name in ("first.gguf", "second.gguf"):
        hub.add(name, MODEL)
        fetch(f"{hub.url}/{name}", store)
        monkeypatch.setattr("time.time", lambda: 1000.0)
    last = store.latest()
    assert last is not None
    assert last.name == "second"


def test_a_model_whose_files_are_gone_says_how_to_get_it_back(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("a/m.gguf", MODEL)
    Path(fetch(f"{hub.url}/a/m.gguf", store).path).unlink()
    with pytest.raises(CatalogueError, match=r"gone .*`spillover pull m`"):
        find("m", store)
    fetch(f"{hub.url}/a/m.gguf", store)
    assert find("m", store).path.is_file()


def test_a_link_of_the_user_is_removed_and_not_what_it_leads_to(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    hub.add("m.gguf", MODEL)
    model = fetch(f"{hub.url}/m.gguf", store)
    own = Path(model.path).rename(tmp_path / "on-a-larger-disk.gguf")
    Path(model.path).symlink_to(own)
    assert fetch("m", store).path == model.path
    store.remove(model)
    assert own.read_bytes() == MODEL
    assert not Path(model.path).is_symlink()


def test_a_folder_behind_a_link_is_used_like_any_other(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    store = ModelStore(tmp_path / "models")
    hub.add("m.gguf", MODEL)
    assert store.remove(fetch(f"{hub.url}/m.gguf", store)) == len(MODEL)
    assert not list((tmp_path / "disk").rglob("*.gguf"))


def test_a_model_is_known_until_its_files_are_deleted(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows deletes no file that a worker reads, and then nobody knew whose it was."""
    hub.add("m.gguf", MODEL)
    model = fetch(f"{hub.url}/m.gguf", store)

    def refuse(*_: object) -> None:
        raise PermissionError("in use")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(PermissionError):
            store.remove(model)
    assert find("m", store).path.is_file()


def test_the_last_name_of_a_file_takes_its_folder_along(hub: FakeHub, store: ModelStore) -> None:
    hub.add("m.gguf", MODEL)
    first = fetch(f"{hub.url}/m.gguf", store)
    second = fetch(f"{hub.url}/m.gguf", store, msgspec.structs.replace(OPTIONS, name="second"))
    assert (store.remove(first), store.has_left("m")) == (0, False)
    assert store.remove(second) == len(MODEL)
    assert not list((store.folder / "files").iterdir())


def test_a_model_that_is_pulled_again_is_the_last_one(hub: FakeHub, store: ModelStore) -> None:
    for name in ("first", "second"):
        hub.add(f"{name}.gguf", MODEL)
        fetch(f"{hub.url}/{name}.gguf", store)
    fetch("first", store)
    latest = store.latest()
    assert latest is not None
    assert latest.name == "first"


def test_a_folder_that_cannot_be_written_does_for_a_model_that_is_here(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of an image of a container."""
    hub.add("m.gguf", MODEL)
    model = fetch(f"{hub.url}/m.gguf", store)
    hub.requests.clear()
    (store.folder / ".locks" / "m").unlink()
    (store.folder / ".locks").rmdir()
    (store.folder / ".locks").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ModelStore, "add", refuse)
    assert fetch("m", store) == model
    assert not hub.requests


# --- records ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record", [b"", b'{"name": "m", "sou', b'{"name": 5}', b"version https://git-lfs", b" " * 2**25]
)
def test_a_record_that_cannot_be_read_is_named_and_removed(
    hub: FakeHub, store: ModelStore, record: bytes
) -> None:
    hub.add("m.gguf", MODEL)
    fetch(f"{hub.url}/m.gguf", store)
    (store.folder / "m.json").write_bytes(record)
    assert (store.all(), store.unreadable()) == ([], ["m"])
    with pytest.raises(CatalogueError, match="`spillover rm m` removes it"):
        find("m", store)
    assert store.has_left("m")
    assert store.discard("m") == len(MODEL)
    assert not store.has_left("m")


def test_nothing_but_models_is_discarded(hub: FakeHub, store: ModelStore) -> None:
    hub.add("m.gguf", MODEL)
    fetch(f"{hub.url}/m.gguf", store)
    for name in ("..", ".", "", "../files", "none"):
        assert not store.has_left(name)
        assert store.discard(name) == 0
    assert find("m", store).path.is_file()


def test_a_pull_that_was_given_up_can_be_discarded(hub: FakeHub, store: ModelStore) -> None:
    hub.add("m.gguf", MODEL, breaks_after=[100_000, *[0] * 20])
    with pytest.raises(PullError):
        fetch(f"{hub.url}/m.gguf", store)
    assert store.has_left("m")
    assert store.discard("m") > 100_000
    assert not store.has_left("m")
