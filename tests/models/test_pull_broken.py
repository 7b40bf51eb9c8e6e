"""Pulls that networks, servers, disks and users interrupt."""

from __future__ import annotations

import errno
import os
import ssl
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest
from huggingface_hub import constants

from spillover.models.catalogue import find
from spillover.models.file_lock import try_lock
from spillover.models.pull import address, pull
from spillover.models.pull.failures import explained_disk
from spillover.models.pull.fetched import Offline, PullError
from spillover.models.store import ModelStore
from tests.cloud_fallback.http.certificates import write_certificate
from tests.models.fake_hub import FakeHub, sha256
from tests.models.pulling import MODEL, OPTIONS, fetch, listed

PLACES = ("tale.gguf", "o/m/m-Q8_0.gguf")


def source_of(hub: FakeHub, path: str) -> str:
    """How a user names the file *path*."""
    return "hf:o/m" if path.startswith("o/m/") else f"{hub.url}/{path}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure_hub(certificate: tuple[Path, Path]) -> Generator[FakeHub]:
    """Of the authority that SSL_CERT_FILE has to name."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    hub = FakeHub(tls)
    yield hub
    hub.close()


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLACES)
def test_a_silent_server_is_asked_again_for_the_rest(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(address, "TIMEOUT_S", 0.3)
    hub.add(path, MODEL, breaks_after=[100_000], breaks_by="silence")
    assert Path(fetch(source_of(hub, path), store).path).read_bytes() == MODEL
    assert hub.ranges(path)[-1] == "bytes=100000-"


def test_a_connection_whose_tls_breaks_goes_on(
    secure_hub: FakeHub,
    hub: FakeHub,
    store: ModelStore,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended with "[SSL] record layer failure", as if the disk had failed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    secure_hub.add("tale.gguf", MODEL, breaks_after=[100_000], breaks_by="noise")
    assert Path(fetch(f"{secure_hub.url}/tale.gguf", store).path).read_bytes() == MODEL
    assert secure_hub.ranges("tale.gguf") == ["", "bytes=100000-"]


def test_a_certificate_that_is_not_trusted_is_refused_at_once(
    secure_hub: FakeHub, hub: FakeHub, store: ModelStore
) -> None:
    secure_hub.add("tale.gguf", MODEL)
    with pytest.raises(PullError, match=r"does not trust .*SSL_CERT_FILE"):
        fetch(f"{secure_hub.url}/tale.gguf", store)
    assert not secure_hub.requests


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(PullError, match=r"through the proxy 127\.0\.0\.1:9 .*refused") as refused:
        fetch("https://models.example.org/tale.gguf", store)
    assert "secret" not in str(refused.value)


def test_a_proxy_for_all_is_one_for_files_too(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files were fetched past it; and one that speaks SOCKS was an error of the client's library,
    with its trace."""
    for name in ("http", "https", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.setenv("all_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(PullError, match=r"the proxy 127\.0\.0\.1:9 \(all_proxy\): .*refused"):
        fetch("https://models.example.org/tale.gguf", store)
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:9")
    for source in (f"{hub.url}/o/m/m-Q8_0.gguf", "hf:o/m"):
        with pytest.raises(PullError, match=r"\(all_proxy\), which speaks SOCKS"):
            fetch(source, store)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(f"{hub.url}/o/m/m-Q8_0.gguf", store).size_bytes == len(MODEL)


def test_a_signature_in_an_address_is_not_shown(hub: FakeHub, store: ModelStore) -> None:
    url = f"{hub.url}/tale.gguf?signature=secret"
    with pytest.raises(PullError, match="no such file") as refused:
        fetch(url, store)
    assert "secret" not in str(refused.value)
    hub.add("tale.gguf", MODEL)
    assert "secret" not in fetch(url, store).entry.description


@pytest.mark.parametrize("path", PLACES)
def test_what_has_come_is_kept_for_the_next_call(
    hub: FakeHub, store: ModelStore, tmp_path: Path, path: str
) -> None:
    """The client of the hub throws it away."""
    held = hub.add(path, MODEL, breaks_after=[100_000, *[0] * 20])
    with pytest.raises(PullError, match="the same command goes on with the rest"):
        fetch(source_of(hub, path), store)
    held.breaks_after.clear()
    assert Path(fetch(source_of(hub, path), store).path).read_bytes() == MODEL
    assert hub.ranges(path)[-1] == "bytes=100000-"
    assert not list(tmp_path.rglob("*.incomplete*"))


def test_a_beginning_that_is_damaged_is_fetched_once_more(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    held = hub.add("o/m/m-Q8_0.gguf", MODEL, breaks_after=[100_000, *[0] * 20])
    with pytest.raises(PullError):
        fetch("hf:o/m", store)
    (part,) = tmp_path.rglob("*.incomplete")
    part.write_bytes(bytes(100_000))
    held.breaks_after.clear()
    assert Path(fetch("hf:o/m", store).path).read_bytes() == MODEL


def test_a_file_of_the_cache_that_is_damaged_is_fetched_again(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    path = Path(fetch("hf:o/m", store).path)
    path.resolve().write_bytes(MODEL[:-5])
    assert Path(fetch("hf:o/m", store).path).read_bytes() == MODEL


def test_a_cache_without_links_is_used_too(
    hub: FakeHub, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one on a disk of another system: the file was kept twice, and fetched again."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS_WARNING", True)
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    path = Path(fetch("hf:o/m", store).path)
    assert path.read_bytes() == MODEL
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.stat().st_size > 10**6]
    assert kept == [path]
    hub.requests.clear()
    assert fetch("hf:o/m", ModelStore(tmp_path / "other")).path == str(path)
    assert not hub.ranges("m-Q8_0.gguf")


def test_a_login_goes_to_no_other_host(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    fetch("hf:o/m", store)
    asked = zip(hub.requests, hub.tokens, strict=True)
    assert {(path.startswith("/cdn/"), token) for (_, path, _), token in asked} == {
        (False, "Bearer hf_secret"),
        (True, ""),
    }


# --- what servers refuse ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "token", "advice"),
    [
        (401, "", "set HF_TOKEN to one of http"),
        (401, "hf_x", r"does not accept your token .*: make a new one"),
        (403, "", "accept its terms at http.*/o/m"),
        (404, "", "look at the name"),
        (429, "", "try again in some minutes"),
        (503, "", r"trouble of its own \(503\)"),
        (200, "", "something else than a repository .*HF_ENDPOINT"),
    ],
)
def test_each_refusal_of_the_hub_says_what_to_do(
    hub: FakeHub,
    store: ModelStore,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    token: str,
    advice: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    hub.statuses["o/m"] = status
    with pytest.raises(PullError, match=advice):
        fetch("hf:o/m", store)


@pytest.mark.parametrize(("status", "advice"), [(401, "set HF_TOKEN"), (403, "accept its terms")])
def test_a_file_that_the_hub_refuses_says_what_to_do(
    hub: FakeHub, store: ModelStore, status: int, advice: str
) -> None:
    """Gated repositories show their files' names to everybody."""
    hub.add("o/m/m-Q8_0.gguf", MODEL, status=status)
    with pytest.raises(PullError, match=advice):
        fetch("hf:o/m", store)


def test_offline_is_not_told_that_the_hub_lacks_a_quantization(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    fetch("hf:o/m", store)
    offline = msgspec.structs.replace(OPTIONS, offline=True)
    with pytest.raises(Offline, match=r"hf:o/m:Q4_K_M is not on this device.*HF_HUB_OFFLINE"):
        fetch("hf:o/m:Q4_K_M", store, offline)


def test_two_files_of_one_quantization_are_not_told_apart_by_chance(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("o/m/small-Q8_0.gguf", MODEL)
    hub.add("o/m/large-Q8_0.gguf", MODEL)
    with pytest.raises(PullError, match=r"name one, such as hf:o/m/small-Q8_0\.gguf"):
        fetch("hf:o/m", store)
    assert fetch("hf:o/m/small-Q8_0.gguf", store).name == "small-Q8_0"


# --- addresses ----------------------------------------------------------------------------------


def test_all_parts_of_a_model_come_from_the_address_of_one(hub: FakeHub, store: ModelStore) -> None:
    """A single part was offered as the model."""
    for number in (1, 2):
        hub.add(f"a b/m-0000{number}-of-00002.gguf", MODEL)
    model = fetch(f"{hub.url}/a b/m-00002-of-00002.gguf?x=1", store)
    assert (model.name, len(model.files), model.size_bytes) == ("m", 2, 2 * len(MODEL))
    assert find("m", store).path.name == "m-00001-of-00002.gguf"


# --- two at once --------------------------------------------------------------------------------


def test_a_model_that_another_process_fetches_is_left_to_it(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.add("tale.gguf", MODEL)
    with try_lock(store.lock_of("tale")) as is_ours:
        assert is_ours
        with pytest.raises(PullError, match="model tale right now"):
            fetch(f"{hub.url}/tale.gguf", store)
    assert not hub.requests
    assert fetch(f"{hub.url}/tale.gguf", store).name == "tale"


def test_a_file_of_the_cache_that_another_program_fetches_is_left_to_it(
    hub: FakeHub, store: ModelStore, tmp_path: Path
) -> None:
    hub.add("o/m/m-Q8_0.gguf", MODEL)
    lock = tmp_path / "cache" / ".locks" / "models--o--m" / f"{sha256(MODEL)}.lock"
    with try_lock(lock), pytest.raises(PullError, match=r"m-Q8_0\.gguf of o/m right now"):
        fetch("hf:o/m", store)
    assert fetch("hf:o/m", store).name == "m"


# --- the user -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_listed", [True, False])
def test_what_was_stopped_between_its_last_byte_and_its_record_is_not_fetched_again(
    hub: FakeHub,
    store: ModelStore,
    own_list: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_listed: bool,
) -> None:
    """Reading a large file for its digest takes a while."""
    hub.add("tale.gguf", MODEL)
    if is_listed:
        own_list.write_text(listed(f'"{hub.url}/tale.gguf"', sha256(MODEL)), "utf-8")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pull, "_check", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(f"{hub.url}/tale.gguf", store)
    assert store.all() == []
    hub.requests.clear()
    assert Path(fetch(f"{hub.url}/tale.gguf", store).path).read_bytes() == MODEL
    assert hub.ranges("tale.gguf") == ([] if is_listed else [f"bytes={len(MODEL)}-"])
    assert not list(store.folder.rglob("*.incomplete*"))


def test_a_file_that_was_replaced_is_fetched_again(hub: FakeHub, store: ModelStore) -> None:
    hub.add("tale.gguf", MODEL)
    path = Path(fetch(f"{hub.url}/tale.gguf", store).path)
    path.write_bytes(b"GGUF")
    notes: list[str] = []
    pull.pull("tale", store, OPTIONS, lambda *_: None, notes.append)
    assert path.read_bytes() == MODEL
    assert "was changed since it was pulled" in notes[0]


# --- the disk -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no limits for processes")
def test_a_disk_that_takes_no_more_keeps_what_it_has(hub: FakeHub, store: ModelStore) -> None:
    hub.add("tale.gguf", MODEL)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000)); "
        "from pathlib import Path; from spillover.models.pull.pull import *; "
        "pull(sys.argv[1], ModelStore(Path(sys.argv[2])), "
        "PullOptions(total_bytes=1 << 33, free_bytes=1 << 33), lambda *_: None)"
    )
    url = f"{hub.url}/tale.gguf"
    child = subprocess.run(
        [sys.executable, "-c", script, url, str(store.folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "takes no file of this size: set models_dir" in child.stderr
    assert Path(fetch(url, store).path).read_bytes() == MODEL
    assert hub.ranges("tale.gguf")[-1] == "bytes=1000000-"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "is full: make room there"),
        (errno.EACCES, "cannot be written .*: change who may write there"),
        (errno.EROFS, "set models_dir"),
        (errno.ENOTDIR, "cannot be written"),
    ],
)
def test_what_a_disk_refuses_says_what_to_do(tmp_path: Path, code: int, advice: str) -> None:
    with pytest.raises(PullError, match=advice), explained_disk(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_file_in_the_place_of_the_folder_is_named(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PullError, match=r"file.* cannot be written"):
        fetch(f"{hub.url}/tale.gguf", ModelStore(tmp_path / "file" / "models"))
