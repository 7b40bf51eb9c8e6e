"""What pulled models are called, and how they are found again by these names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from spillover.models.catalogue import find
from spillover.models.entry import CatalogueError
from spillover.models.pull.fetched import PullError
from spillover.models.pull.order import PullOptions
from spillover.models.pull.pull import pull
from spillover.models.store import ModelStore, is_name
from tests.models.fake_hub import FakeHub, sha256
from tests.models.pulling import MODEL, OPTIONS, fetch, listed

TWO_QUANTIZATIONS = """
[tale]
licence = "X"
n_ctx = 1024
description = "a tale"
recommended = {{ 0 = "Q4_0", 4 = "Q8_0" }}
files = [
  {{ quantization = "Q4_0", size_bytes = 4000000, sources = ["{url}/small.gguf"] }},
  {{ quantization = "Q8_0", size_bytes = 6273344, sources = ["{url}/large.gguf"] }},
]
"""


def named(name: str) -> PullOptions:
    return msgspec.structs.replace(OPTIONS, name=name)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a tale (1).gguf", "a-tale-1"),
        (".tale.gguf", "tale"),
        ("Öl-模型.gguf", "Ol"),
        ("模型.gguf", "model"),
        ("t" * 180 + ".gguf", "t" * 90),
        ("c++.gguf", "c++"),
        ("..\\..\\tale.gguf", "tale"),
    ],
)
def test_a_file_of_any_name_becomes_a_model_of_a_valid_name(
    hub: FakeHub, store: ModelStore, file: str, name: str
) -> None:
    """Such names were refused when all had been fetched, with a message about JSON."""
    hub.add(f"a/{file}", MODEL)
    url = f"{hub.url}/a/{quote(file)}"
    model = fetch(url, store)
    assert model.name == name
    assert is_name(model.name)
    assert Path(model.path).is_relative_to(store.folder)
    hub.requests.clear()
    assert fetch(url, store).name == model.name
    assert fetch(model.name, store).name == model.name
    assert not hub.requests


def test_a_quantization_of_any_name_becomes_a_valid_tag(hub: FakeHub, store: ModelStore) -> None:
    hub.add("o/Tale-GGUF/tale (é) Q8_0.gguf", MODEL)
    model = fetch("hf:o/Tale-GGUF/tale (é) Q8_0.gguf", store)
    assert model.name == "tale-e-Q8_0"


@pytest.mark.parametrize("name", ["smollm2-135m", "Storyteller"])
def test_another_model_does_not_take_a_name_of_the_catalogue(
    hub: FakeHub, store: ModelStore, name: str
) -> None:
    """`spillover pull smollm2-135m` was refused then, and the other one was used by that name."""
    hub.add(f"a/{name}.gguf", MODEL)
    assert fetch(f"{hub.url}/a/{name}.gguf", store).name == f"{name}-2"
    with pytest.raises(PullError, match="the catalogue has another model"):
        fetch(f"{hub.url}/a/{name}.gguf", store, named(name))


def test_a_model_of_the_catalogue_is_itself_by_its_source_too(
    hub: FakeHub, store: ModelStore, own_list: Path
) -> None:
    hub.add("tale.gguf", MODEL)
    own_list.write_text(listed(f'"{hub.url}/tale.gguf"', sha256(MODEL)), "utf-8")
    model = fetch(f"{hub.url}/tale.gguf", store)
    assert (model.name, model.licence) == ("tale", "X")
    hub.requests.clear()
    assert fetch("Tale", store).name == "tale"
    assert not hub.requests


def test_models_of_one_name_are_numbered_and_found_again(hub: FakeHub, store: ModelStore) -> None:
    urls = [f"{hub.url}/{folder}/m.gguf" for folder in "ab"]
    for folder in "ab":
        hub.add(f"{folder}/m.gguf", MODEL)
    assert [fetch(url, store).name for url in urls] == ["m", "m-2"]
    hub.requests.clear()
    assert [fetch(url, store).name for url in urls] == ["m", "m-2"]
    assert not hub.requests


def test_a_name_that_the_user_gives_is_not_changed(hub: FakeHub, store: ModelStore) -> None:
    for folder in "ab":
        hub.add(f"{folder}/m.gguf", MODEL)
    fetch(f"{hub.url}/a/m.gguf", store)
    hub.requests.clear()
    with pytest.raises(PullError, match="choose another name"):
        fetch(f"{hub.url}/b/m.gguf", store, named("m"))
    assert not hub.requests


def test_a_second_name_for_a_model_fetches_nothing(hub: FakeHub, store: ModelStore) -> None:
    hub.add("a/m.gguf", MODEL)
    first = fetch(f"{hub.url}/a/m.gguf", store)
    hub.requests.clear()
    second = fetch(f"{hub.url}/a/m.gguf", store, named("second"))
    assert not hub.requests
    assert second.path == first.path
    assert store.remove(first) == 0
    assert find("second", store).path.is_file()


def test_a_model_takes_no_file_of_another_that_had_its_name(
    hub: FakeHub, store: ModelStore
) -> None:
    """The second model's file was replaced by that of the third one."""
    hub.add("a/m.gguf", MODEL)
    hub.add("b/m.gguf", b"no model")
    first = fetch(f"{hub.url}/a/m.gguf", store)
    second = fetch(f"{hub.url}/a/m.gguf", store, named("second"))
    store.remove(first)
    with pytest.raises(CatalogueError):
        fetch(f"{hub.url}/b/m.gguf", store)
    assert Path(second.path).read_bytes() == MODEL
    hub.add("c/m.gguf", MODEL)
    third = fetch(f"{hub.url}/c/m.gguf", store)
    assert third.name == "m"
    assert third.path != second.path
    assert store.remove(third) == len(MODEL)
    assert store.remove(second) == len(MODEL)
    assert not any((store.folder / "files").iterdir())


# --- quantizations ------------------------------------------------------------------------------


def test_a_model_that_is_here_stays_chosen_when_memory_is_short(
    hub: FakeHub, store: ModelStore, own_list: Path
) -> None:
    """It was refused: "there is a model tale from …/large.gguf already"."""
    hub.add("small.gguf", MODEL)
    hub.add("large.gguf", MODEL)
    own_list.write_text(TWO_QUANTIZATIONS.format(url=hub.url), "utf-8")
    large = fetch("tale", store)
    assert large.source.endswith("/large.gguf")
    hub.requests.clear()
    notes: list[str] = []
    short = msgspec.structs.replace(OPTIONS, free_bytes=5_000_000)
    assert pull("tale", store, short, lambda *_: None, notes.append).path == large.path
    assert not hub.requests
    assert "tale is on this device as Q8_0" in notes[0]
    other = pull(argument_of(notes[0]), store, short, lambda *_: None)
    assert (other.name, other.source) == ("tale:Q4_0", f"{hub.url}/small.gguf")


def test_a_quantization_that_is_here_is_also_the_model(
    hub: FakeHub, store: ModelStore, own_list: Path
) -> None:
    hub.add("small.gguf", MODEL)
    own_list.write_text(TWO_QUANTIZATIONS.format(url=hub.url), "utf-8")
    fetch("tale:q4_0", store)
    hub.requests.clear()
    assert fetch("tale", store).name == "tale"
    assert not hub.requests
    assert find("tale", store).path == find("tale:Q4_0", store).path


# --- advice -------------------------------------------------------------------------------------


def argument_of(message: str) -> str:
    """The model in the command `spillover pull …` that *message* gives."""
    command = re.search(r"`spillover pull (.+?)`", message)
    assert command, message
    return shlex.split(command[1])[0]


def follow(message: str, store: ModelStore) -> None:
    """Type the commands that *message* gives."""
    for command in re.findall(r"`spillover (.+?)`", message):
        verb, name, *flags = shlex.split(command)
        if verb == "rm":
            model = store.get(name)
            assert model is not None
            store.remove(model)
        else:
            assert verb == "pull"
            pull(name, store, named(flags[1] if flags else ""), lambda *_: None)


@pytest.mark.parametrize("text", ["tale", "{url}/a%20%26%20b.gguf", "hf:o/m"])
def test_the_advice_for_files_that_are_gone_or_damaged_works(
    hub: FakeHub, store: ModelStore, own_list: Path, text: str
) -> None:
    """The command gave a name of the catalogue with --name, which was refused."""
    for path in ("tale.gguf", "a & b.gguf", "o/m/m-Q8_0.gguf"):
        hub.add(path, MODEL)
    own_list.write_text(listed(f'"{hub.url}/tale.gguf"', sha256(MODEL)), "utf-8")
    name = fetch(text.format(url=hub.url), store).name
    follow(find(name, store).remedy, store)
    find(name, store).path.unlink()
    with pytest.raises(CatalogueError, match="are gone") as gone:
        find(name, store)
    follow(str(gone.value), store)
    assert find(name, store).path.read_bytes() == MODEL


def test_a_quantization_that_there_is_not_is_not_offered_for_a_pull(
    store: ModelStore, own_list: Path
) -> None:
    own_list.write_text(TWO_QUANTIZATIONS.format(url="https://example.org"), "utf-8")
    with pytest.raises(CatalogueError, match="has no quantization 'Q9': it has Q4_0, Q8_0"):
        find("tale:Q9", store)
    with pytest.raises(CatalogueError, match="`spillover pull tale:Q8_0` fetches it"):
        find("TALE:q8_0", store)
