"""Models that other programs keep on this device are found and used in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spillover.models import other_programs
from spillover.models.catalogue import default_model, find
from spillover.models.store import ModelStore
from tests.models.fake_hub import sha256

MODEL = default_model().path.read_bytes()
DIGEST = sha256(MODEL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OLLAMA_MODELS", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put(path: Path, content: bytes = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ollama(home: Path, place: str, *kinds: str) -> None:
    layers = [
        {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "digest": f"sha256:{DIGEST}",
            "size": 9,
        }
        for kind in kinds
    ]
    put(home / ".ollama/models/manifests" / place, json.dumps({"layers": layers}).encode())
    put(home / f".ollama/models/blobs/sha256-{DIGEST}")


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("registry.ollama.ai/library/tale/1b", ["tale:1b", "TALE:1b"]),
        ("registry.ollama.ai/library/tale/latest", ["tale", "tale:latest"]),
        ("registry.ollama.ai/me/tale/latest", ["me/tale", "me/tale:latest"]),
        ("hf.co/o/m-GGUF/Q8_0", ["o/m-GGUF:Q8_0"]),
    ],
)
def test_a_model_of_ollama(home: Path, place: str, names: list[str]) -> None:
    ollama(home, place, "model", "template", "params")
    for name in names:
        entry = find(name, ModelStore(home / "none"))
        assert entry.path.read_bytes() == MODEL
        assert entry.sha256 == DIGEST


@pytest.mark.parametrize("kinds", [("template",), ("model", "projector"), ("model", "adapter")])
def test_what_is_not_only_a_model_is_left_alone(home: Path, kinds: tuple[str, ...]) -> None:
    ollama(home, "registry.ollama.ai/library/tale/1b", *kinds)
    assert other_programs.find("tale:1b") is None


def test_damaged_manifests_and_missing_blobs_are_left_alone(home: Path) -> None:
    ollama(home, "registry.ollama.ai/library/tale/1b", "model")
    put(home / ".ollama/models/manifests/registry.ollama.ai/library/bad/1b", b"{")
    put(home / ".ollama/models/manifests/stray", b"{}")
    (home / f".ollama/models/blobs/sha256-{DIGEST}").unlink()
    assert list(other_programs.found_models()) == []


@pytest.mark.parametrize(
    ("folder", "program"),
    [
        (".lmstudio/models/o/m", "LM Studio"),
        (".cache/lm-studio/models/o/m", "LM Studio"),
        (".cache/llama.cpp", "llama.cpp"),
        (".cache/huggingface/hub/models--o--m/snapshots/abc", "Hugging Face"),
    ],
)
def test_files_in_folders(home: Path, folder: str, program: str) -> None:
    path = put(home / folder / "tale-Q8_0.gguf")
    put(home / folder / "mmproj-tale.gguf")
    put(home / folder / "other.gguf", b"<html>")
    found = list(other_programs.found_models())
    assert [(one.program, one.entry.path) for one in found] == [(program, path)]
    assert find("tale-q8_0", ModelStore(home / "none")).path == path


def test_parts_are_one_model_and_incomplete_ones_none(home: Path) -> None:
    for name in ("a-00001-of-00002", "a-00002-of-00002", "b-00002-of-00002", "c-00001-of-00002"):
        put(home / ".lmstudio/models/o/m" / f"{name}.gguf")
    assert [found.entry.name for found in other_programs.found_models()] == ["a"]
