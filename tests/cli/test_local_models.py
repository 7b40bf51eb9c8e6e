"""The tables [[local_model]] of the configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from spillover.edge_server.commands.doctor.checkup import Findings
from spillover.edge_server.commands.doctor.models_check import check_models
from spillover.edge_server.commands.loading import (
    default_cloud,
    default_name,
    default_options,
    model_entry,
)
from spillover.edge_server.config.config import load
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.models.catalogue import find
from spillover.runtime.machine.device import describe_device

TABLES = """
n_ctx = 1024
handoff_mode = "restart"
[policy]
decode_floor = 3.0
queue_s = 7.0
[[local_model]]
name = "tales"
model = "storyteller-onnx"
aliases = ["gpt-4o-mini"]
n_ctx = 512
fallback = "ask"
handoff_mode = "at_turn"
pinned = true
[local_model.policy]
decode_floor = 1.0
[[local_model]]
name = "storyteller"
keep_alive_s = 60
"""


def settings_of(tmp_path: Path, text: str, **flags: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(flags, environ={}, config_flag=file).settings


def test_a_models_own_settings_count_for_it_alone(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, TABLES)
    tales, storyteller = settings.models
    assert [tales.engine(settings.engine).n_ctx, storyteller.engine(settings.engine).n_ctx] == [
        512,
        1024,
    ]
    own, common = tales.cloud(settings.cloud), storyteller.cloud(settings.cloud)
    assert (own.fallback, own.route.mode) == ("ask", "at_turn")
    assert (common.fallback, common.route.mode) == ("never", "restart")
    assert (own.policy.decode_floor, own.policy.queue_s) == (1.0, 7.0)
    assert common.policy.decode_floor == 3.0
    assert (tales.pinned, tales.keep_alive_s, storyteller.keep_alive_s) == (True, None, 60)


def test_the_command_line_and_the_environment_override_a_models_own_settings(
    tmp_path: Path,
) -> None:
    """`--fallback never` did not hold for a model whose table said something else."""
    settings = settings_of(tmp_path, TABLES, fallback="never", n_ctx="256")
    tales = settings.models[0]
    assert tales.cloud(settings.cloud).fallback == "never"
    assert tales.engine(settings.engine).n_ctx == 256
    assert tales.cloud(settings.cloud).route.mode == "at_turn"
    assert settings.fallbacks == {"": "never", "tales": "never", "storyteller": "never"}


@pytest.mark.parametrize("is_flag", [True, False])
def test_neither_the_command_line_nor_the_environment_lifts_what_a_table_forbids(
    tmp_path: Path, is_flag: bool
) -> None:
    """`SPILLOVER_FALLBACK=auto` let the answers of a model leave whose table said "never"."""
    file = tmp_path / "config.toml"
    tables = [f'[[local_model]]\nname = "{name}"\nfallback = "{name}"' for name in ("never", "ask")]
    file.write_text("\n".join((*tables, '[[local_model]]\nname = "open"')))
    flags = {"fallback": "auto"} if is_flag else {}
    environ = {} if is_flag else {"SPILLOVER_FALLBACK": "auto"}
    settings = load(flags, environ=environ, config_flag=file).settings
    assert settings.fallbacks == {"": "auto", "never": "never", "ask": "ask", "open": "auto"}


def test_a_conversation_in_the_terminal_has_the_fallback_of_its_model(tmp_path: Path) -> None:
    """The common one counted, also where the model's own said that nothing may leave."""
    text = 'fallback = "auto"\n[[local_model]]\nname = "storyteller-onnx"\nfallback = "never"\n'
    assert default_cloud(settings_of(tmp_path, text)).fallback == "never"
    assert default_cloud(settings_of(tmp_path, text, model="storyteller")).fallback == "auto"


def test_a_table_is_that_of_its_file_however_the_file_is_named(tmp_path: Path) -> None:
    """Names were compared letter by letter: a path, or a capital, dropped the table's "never"."""
    path = find("storyteller-onnx").path
    link = tmp_path / "link"
    link.symlink_to(path.parent if path.is_file() else path)
    text = (
        'fallback = "auto"\n[[local_model]]\nname = "other"\nmodel = "storyteller"\n'
        '[[local_model]]\nname = "first"\nmodel = "storyteller-onnx"\n'
        f'[[local_model]]\nname = "private"\nmodel = "{path}"\nfallback = "never"\n'
    )
    for name in ("storyteller-onnx", str(path), str(link / path.name)):
        settings = settings_of(tmp_path, text, model=name)
        assert default_name(settings, model_entry(settings)) == "private"
        assert default_cloud(settings).fallback == "never"
    assert default_cloud(settings_of(tmp_path, text, model="first")).fallback == "auto"


def test_the_first_table_is_the_model_that_is_used_where_none_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, TABLES)
    entry = model_entry(settings)
    assert (entry.name, default_name(settings, entry)) == ("storyteller-onnx", "tales")
    assert default_options(settings).n_ctx == 512
    named = settings_of(tmp_path, TABLES, model="storyteller")
    assert default_name(named, model_entry(named)) == "storyteller"
    assert default_options(named).n_ctx == 1024


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('name = "a"\nn_ctx = 2', "n_ctx must be an integer from 16"),
        ('name = "a"\nkeep_alive_s = -2', "keep_alive_s"),
        ('name = "a"\npinned = true\nkeep_alive_s = 60', "is pinned, so that it stays loaded"),
        ('name = "a"\nhost = "0.0.0.0"', "unknown field `host`"),
        ('name = "a"\noptions = { n_ctx = 2 }', "there is no setting options"),
        ('model = "storyteller"', "missing required field `name`"),
        ('name = "a"\naliases = ["b", "b"]', "two models are called 'b'"),
        ('name = "a"\nfallback = "always"', "fallback must be"),
        ('name = "a"\n[local_model.policy]\ndecode_floor = "x"', "decode_floor"),
        ('name = "a"\npolicy = 5', "policy: Expected `object"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, f"[[local_model]]\n{table}\n")
    assert message in str(refused.value)
    assert "config.toml" in str(refused.value)


def test_a_single_table_is_told_how_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="above each model's settings"):
        settings_of(tmp_path, '[local_model]\nname = "a"\n')


def test_doctor_shows_each_model_and_names_those_that_are_missing(tmp_path: Path) -> None:
    text = f'{TABLES}\n[[local_model]]\nname = "gone"\nmodel = "{tmp_path}/gone.gguf"\n'
    findings = Findings(python="3", device=describe_device())
    check_models(findings, settings_of(tmp_path, text))
    assert set(findings.models) == {"tales", "storyteller"}
    assert "pinned" in findings.models["tales"]
    assert "gpt-4o-mini" in findings.models["tales"]
    (problem,) = findings.problems
    assert "gone.gguf" in problem.what
    assert problem.blocks
    assert "[[local_model]] gone" in problem.todo


def test_doctor_warns_of_models_that_leave_no_room(tmp_path: Path) -> None:
    findings = Findings(python="3")
    check_models(findings, settings_of(tmp_path, f"models_memory_mb = 100\n{TABLES}"))
    told = [problem.what for problem in findings.problems]
    assert len(told) == 3
    assert sum(" or more, but there is " in each for each in told) == 2
    assert "the pinned models need" in told[-1]
    assert findings.runs
