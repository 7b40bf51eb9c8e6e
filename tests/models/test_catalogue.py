"""Names and paths of models."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from spillover.models import catalogue
from spillover.models.catalogue import CatalogueError


def gguf(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"GGUF")


def test_the_bundled_model_is_the_default_and_is_intact() -> None:
    entry = catalogue.default_model()
    assert entry.name == "storyteller"
    assert entry.path.stat().st_size == entry.size_bytes
    catalogue.verify(entry)


@pytest.mark.parametrize("name", ["storyteller", "storyteller-onnx"])
def test_what_comes_with_the_package_is_intact(name: str) -> None:
    entry = catalogue.find(name)
    assert entry.path.stat().st_size == entry.size_bytes
    catalogue.verify(entry)


def test_a_changed_file_is_found_out(tmp_path: Path) -> None:
    gguf(tmp_path, "a.gguf")
    changed = msgspec.structs.replace(catalogue.default_model(), path=tmp_path / "a.gguf")
    with pytest.raises(CatalogueError, match="damaged or was changed"):
        catalogue.verify(changed)


def test_exactly_one_model_is_the_default() -> None:
    assert "storyteller" in catalogue.names()
    assert sum(listed.default for listed in catalogue._read().values()) == 1


def test_a_file_is_found_by_its_path_and_named_by_its_stem(tmp_path: Path) -> None:
    gguf(tmp_path, "qwen3-0.6b-Q4_K_M.gguf")
    entry = catalogue.find(str(tmp_path / "qwen3-0.6b-Q4_K_M.gguf"))
    assert entry.name == "qwen3-0.6b-Q4_K_M"
    catalogue.verify(entry)


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf(tmp_path, "m.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.find("~/m.gguf").path == tmp_path / "m.gguf"


def test_a_folder_with_one_model_is_that_model(tmp_path: Path) -> None:
    gguf(tmp_path, "m.gguf")
    (tmp_path / "README.md").touch()
    assert catalogue.find(str(tmp_path)).path == tmp_path / "m.gguf"


def test_a_folder_with_two_models_asks_which(tmp_path: Path) -> None:
    gguf(tmp_path, "a.gguf", "b.gguf")
    with pytest.raises(CatalogueError, match=r"several models \(a, b\)"):
        catalogue.find(str(tmp_path))


@pytest.mark.parametrize("given", ["", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
def test_a_split_model_is_opened_at_its_first_part(tmp_path: Path, given: str) -> None:
    gguf(tmp_path, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    entry = catalogue.find(str(tmp_path / given))
    assert entry.path == tmp_path / "m-00001-of-00002.gguf"
    assert entry.name == "m"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00002-of-00002.gguf")
    with pytest.raises(CatalogueError, match=r"m-00001-of-00002\.gguf is not beside it"):
        catalogue.find(str(tmp_path / "m-00002-of-00002.gguf"))


def test_an_unknown_name_gets_the_known_ones_and_a_guess() -> None:
    with pytest.raises(CatalogueError, match="did you mean storyteller") as error:
        catalogue.find("storyteler")
    assert "catalogue (storyteller" in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CatalogueError, match="not a model file"):
        catalogue.find(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("https://example.com/o/m/blob/main/m.gguf", "curl -LO https://example.com/o/m/resolve/"),
        ("Qwen/Qwen3-0.6B-GGUF", "hf download Qwen/Qwen3-0.6B-GGUF FILE.gguf"),
        ("hf.co/o/m.b:Q4_K_M", "hf download o/m.b FILE.gguf"),
        ("hf:o/m", "hf download o/m FILE.gguf"),
        ("llama3.2:1b", "looks like a model of Ollama"),
        ("models/m.gguf", "there is no model"),
        ("/gone/m", "there is no model"),
    ],
)
def test_files_that_are_not_models_get_fitting_advice(given: str, advice: str) -> None:
    with pytest.raises(CatalogueError, match=re.escape(advice)):
        catalogue.find(given)


def test_a_prompt_is_distinguished_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert catalogue.is_model("storyteller")
    assert catalogue.is_model(str(tmp_path / "m.gguf"))
    assert catalogue.is_model(str(catalogue.find("storyteller-onnx").path))
    for prompt in ("Hello", "Why? " * 2_000, "a\0b", str(tmp_path), "gone.gguf", "~nobody/x"):
        assert not catalogue.is_model(prompt)
