"""What the catalogue says of a model counts until its owner says otherwise."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.commands.hosting import hosting
from spillover.edge_server.config.catalogue_policy import cloud_settings
from spillover.edge_server.config.config import load
from spillover.edge_server.errors import ConfigError
from spillover.models import catalogue
from spillover.models.entry import ModelEntry

HOUSE = """
[house]
licence = "our own"
n_ctx = 8192
description = "tuned on our manuals"
languages = ["de", "en"]
tools = false
files = [{ quantization = "Q8_0", size_bytes = 10, sources = ["hf:our-team/house:Q8_0"] }]
[house.policy]
p_wrong_enter = 0.6
p_wrong_hold = 0.5
queue_s = 3.0
"""
ENTRY = ModelEntry(name="mine", path=Path("m.gguf"), source="hf:our-team/house:Q8_0")


@pytest.fixture
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *_, **__: tmp_path)
    catalogue._read.cache_clear()
    return tmp_path / "models.toml"


def cloud(tmp_path: Path, text: str, entry: ModelEntry = ENTRY) -> CloudSettings:
    file = tmp_path / "config.toml"
    file.write_text(f'fallback = "auto"\n{text}')
    settings = load({}, environ={}, config_flag=file).settings
    return cloud_settings(settings, entry, next(iter(settings.models), None))


def test_what_the_owner_leaves_open_is_as_the_catalogue_says(
    own_list: Path, tmp_path: Path
) -> None:
    own_list.write_text(HOUSE)
    found = cloud(tmp_path, "")
    assert found.policy == PolicySettings(p_wrong_enter=0.6, p_wrong_hold=0.5, queue_s=3.0)
    assert (found.facts.languages, found.facts.can_call_tools) == (("de", "en"), False)


def test_the_owners_word_counts_even_where_it_is_the_usual_one(
    own_list: Path, tmp_path: Path
) -> None:
    own_list.write_text(HOUSE)
    usual = PolicySettings()
    tables = f"""
[policy]
p_wrong_enter = {usual.p_wrong_enter}
[[local_model]]
name = "mine"
[local_model.policy]
queue_s = 9.0
"""
    found = cloud(tmp_path, tables).policy
    assert (found.p_wrong_enter, found.queue_s) == (usual.p_wrong_enter, 9.0)
    assert found.p_wrong_hold == 0.5


def test_a_model_that_the_catalogue_does_not_know_has_the_owners_settings(
    own_list: Path, tmp_path: Path
) -> None:
    own_list.write_text(HOUSE)
    stranger = ModelEntry(name="house", path=Path("house.gguf"))
    found = cloud(tmp_path, "[policy]\nqueue_s = 5.0\n", stranger)
    assert found.policy == PolicySettings(queue_s=5.0)
    assert found == CloudSettings(fallback="auto", policy=found.policy)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("queue_s = 0.0", "queue_s"),
        ("patience = 1", "patience"),
        ("queue_s = 'x'", "queue_s"),
        ("[[", "models.toml"),
        ('[other]\nlicence = "x"', "models.toml"),
    ],
)
def test_a_mistake_in_the_list_is_named(
    own_list: Path, tmp_path: Path, wrong: str, told: str
) -> None:
    own_list.write_text(HOUSE.replace("queue_s = 3.0", wrong))
    with pytest.raises(ConfigError, match=told) as refused:
        cloud(tmp_path, "")
    assert "models.toml" in str(refused.value)


def test_a_wrong_policy_is_found_at_the_start_whatever_model_it_is_of(
    own_list: Path, tmp_path: Path
) -> None:
    """Each request that listed the models failed, those of other models too, and left a trace."""
    own_list.write_text(HOUSE.replace("queue_s = 3.0", "patience = 1"))
    file = tmp_path / "config.toml"
    file.write_text('fallback = "auto"\n')
    with (
        hosting(load({}, environ={}, config_flag=file).settings) as models,
        pytest.raises(ConfigError, match=r"\[house\.policy\].*patience.*models\.toml"),
        models.router(),
    ):
        pass


def test_the_owners_own_table_counts_before_the_catalogues_of_the_same_repository(
    own_list: Path, tmp_path: Path
) -> None:
    shipped = next(listed for listed in catalogue.listed_models().values() if listed.files)
    source = shipped.files[0].sources[0]
    own_list.write_text(HOUSE.replace("hf:our-team/house:Q8_0", source))
    entry = ModelEntry(name="mine", path=Path("m.gguf"), source=source)
    assert cloud(tmp_path, "", entry).policy.queue_s == 3.0
    own_list.write_text(
        HOUSE.replace("hf:our-team/house:Q8_0", source)
        + HOUSE.replace("hf:our-team/house:Q8_0", source)
        .replace("[house", "[mine")
        .replace("queue_s = 3.0", "queue_s = 4.0")
    )
    catalogue._read.cache_clear()
    assert cloud(tmp_path, "", entry).policy.queue_s == 4.0


def test_a_source_that_cannot_be_read_is_named_with_its_table_and_the_file(
    own_list: Path, tmp_path: Path
) -> None:
    """It was named alone, while another model was asked for."""
    own_list.write_text(HOUSE.replace("hf:our-team/house:Q8_0", "hf:house"))
    entry = ModelEntry(name="other", path=Path("m.gguf"), source="hf:o/other:Q8_0")
    with pytest.raises(ConfigError, match=r"models\.toml cannot be used: \[house\].*hf:house"):
        cloud(tmp_path, "", entry)


def test_a_mistake_in_the_list_keeps_nobody_from_answers_that_stay_here(own_list: Path) -> None:
    own_list.write_text("[[")
    settings = load({}, environ={}, without_file=True).settings
    assert cloud_settings(settings, ENTRY, None) == CloudSettings(fallback="never")


def test_the_own_catalogue_is_right(tmp_path: Path) -> None:
    for listed in catalogue.listed_models().values():
        for source in (file.sources[0] for file in listed.files):
            entry = ModelEntry(name="m", path=Path("m.gguf"), source=source)
            assert cloud(tmp_path, "", entry).facts.languages == listed.languages


def test_the_file_cannot_claim_what_was_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy_given"):
        cloud(tmp_path, '[[local_model]]\nname = "a"\npolicy_given = ["queue_s"]\n')
    with pytest.raises(ConfigError, match="policy_given"):
        cloud(tmp_path, 'policy_given = ["queue_s"]\n')
