"""Where settings come from, and the message when one is wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.settings import RouteSettings
from spillover.edge_server.config import config_file, setting_type
from spillover.edge_server.config import setting_list as list_module
from spillover.edge_server.config.config import Config, load
from spillover.edge_server.config.setting_list import setting_list, table_list
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.edge_server.resume.lifetime import ResumeLimits
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import AnswerDefaults
from spillover.runtime.sampling import Sampling

KEY = "sk-canary-0123456789"


@pytest.fixture(autouse=True)
def no_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "user_path", lambda: tmp_path / "none.toml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("port = 1111\nn_ctx = 512\nhost = '::1'\n")
    return path


def loaded(
    text: str, tmp_path: Path, flags: dict[str, object] | None = None, **environ: str
) -> Config:
    path = tmp_path / "given.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(flags or {}, environ=environ, config_flag=path)


def test_every_field_of_the_structs_is_a_setting_with_a_help_text() -> None:
    """setting_list raises TypeError for a field that has none."""
    structs = (
        Settings,
        ResumeLimits,
        AnswerDefaults,
        Sampling,
        CloudSettings,
        RouteSettings,
        EngineOptions,
    )
    names = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    tables = {"local_model", "provider", "policy", "privacy", "budget"}
    found = [setting.name for setting in setting_list()]
    groups = {"resume", "answers", "sampling", "cloud", "route", "engine"}
    no_settings = {"logit_bias", "policy_given", "facts"}
    # One of the groups, and a setting in it, are both called engine.
    assert set(found) == (names - tables - groups - no_settings) | {"engine"}
    assert {field.encode_name for field in table_list()} == tables
    assert len(set(found)) == len(found)
    assert all(setting.help.endswith(".") for setting in setting_list())


def test_a_field_without_a_help_text_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(msgspec.Struct):
        port: int = 8080

    monkeypatch.setattr(list_module, "Settings", Forgetful)
    with pytest.raises(TypeError, match="port has no help"):
        setting_list()


def test_grace_and_patience_of_the_route_can_be_set(tmp_path: Path) -> None:
    config = loaded("grace_tokens = 8\ngrace_s = 2", tmp_path, SPILLOVER_CRASH_PATIENCE_S="0.5")
    assert config.settings.cloud.route == RouteSettings(
        grace_tokens=8, grace_s=2.0, crash_patience_s=0.5
    )


def test_the_defaults_are_those_of_the_structs() -> None:
    config = load({}, environ={})
    assert config.settings == Settings()
    assert {value.origin for value in config.values.values()} == {"default"}


def test_flags_override_environment_overrides_file_overrides_defaults(file: Path) -> None:
    config = load({"port": "3333"}, environ={"SPILLOVER_N_CTX": "2048"}, config_flag=file)
    assert config.settings == Settings(port=3333, hosts=("::1",), engine=EngineOptions(n_ctx=2048))
    origins = {name: config.values[name].origin for name in ("port", "n_ctx", "host", "alias")}
    assert origins == {
        "port": "--port",
        "n_ctx": "SPILLOVER_N_CTX",
        "host": f"{file}: host",
        "alias": "default",
    }


@pytest.mark.parametrize("given", ["'::1'", "['::1']"])
def test_one_text_in_the_file_is_a_list_of_one(tmp_path: Path, given: str) -> None:
    assert loaded(f"host = {given}", tmp_path).settings.hosts == ("::1",)


def test_a_mark_of_the_byte_order_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert loaded("\ufeffport = 1", tmp_path).settings.port == 1


def test_several_hosts_are_a_list(tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "::1")
    assert loaded(f"host = {[*hosts]}", tmp_path).settings.hosts == hosts
    assert load({}, environ={"SPILLOVER_HOST": "127.0.0.1,::1"}).settings.hosts == hosts
    assert load({"host": hosts}, environ={}).settings.hosts == hosts
    with pytest.raises(ConfigError, match="host must be a list of texts"):
        loaded("host = []", tmp_path)


def test_the_flag_for_the_file_overrides_the_variable(file: Path) -> None:
    other = file.with_name("other.toml")
    other.write_text("port = 2222")
    environ = {"SPILLOVER_CONFIG": str(file)}
    assert load({}, environ=environ).settings.port == 1111
    assert load({}, environ=environ, config_flag=other).settings.port == 2222


def test_the_users_own_file_is_read_when_no_other_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_file, "user_path", lambda: file)
    config = load({}, environ={})
    assert config.file == file
    assert config.settings.port == 1111


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SPILLOVER_CONFIG: there is no file .*/gone\.toml"):
        load({}, environ={"SPILLOVER_CONFIG": str(tmp_path / "gone.toml")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 8080", "there is no setting prot: did you mean port"),
        ("zzz = 1", "there is no setting zzz: `spillover config` lists"),
        ("[engines]\nn_ctx = 1", r"there is no table \[engines\]"),
        (
            "port = 99999",
            "toml: port: 99999 is not allowed: port must be an integer from 0 to 65535",
        ),
        ("port = '8080'", "toml: port: '8080' is not allowed"),
        (
            "proxy = 'http://me:secret@proxy:3128'",
            "toml: proxy: 'http://proxy:3128' is not allowed: proxy must be an address such as "
            "http://host:3128, without a user",
        ),
        ("port = true", "toml: port: True is not allowed"),
        ("data_dir = 3", "toml: data_dir: 3 is not allowed: data_dir must be a path or auto"),
        ("max_gap_ms = nan", "max_gap_ms: nan is not allowed: max_gap_ms must be a number from 20"),
        ("log_level = 'loud'", "log_level must be one of debug, error, info, warning"),
        ("port = \n", "not valid TOML.*line 1"),
        ("port = " + "[" * 100_000, "not valid TOML"),
        ("port = " + "9" * 5_000, "not valid TOML"),
    ],
)
def test_an_error_in_the_file_names_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(text, tmp_path)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^SPILLOVER_PORT: 'tcp://10.0.0.1:80' is not allowed"):
        load({}, environ={"SPILLOVER_PORT": "tcp://10.0.0.1:80"})


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--parallel: '0' is not allowed.* from 1 to 64"):
        load({"n_parallel": "0"}, environ={})


def test_an_unknown_variable_is_only_a_warning() -> None:
    config = load({}, environ={"SPILLOVER_PROT": "1", "OTHER": "2"})
    assert config.warnings == (
        "the variable SPILLOVER_PROT is unknown and has no effect: did you mean SPILLOVER_PORT?",
    )


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, environ={"SPILLOVER_PORT": ""}).settings.port == 8080


def test_auto_undoes_a_value_of_a_lower_layer(tmp_path: Path) -> None:
    config = loaded("n_ctx = 512\nn_threads = 'auto'", tmp_path, SPILLOVER_N_CTX="auto")
    assert config.settings.engine.n_ctx is None
    assert config.settings.engine.n_threads is None


def test_text_becomes_numbers_booleans_and_paths() -> None:
    config = load(
        {},
        environ={
            "SPILLOVER_USE_EXTRA_BUFTS": "false",
            "SPILLOVER_MAX_GAP_MS": "100",
            "SPILLOVER_CACHE_DIR": "/var/cache/spillover",
            "SPILLOVER_ALLOWED_HOST": "edge.local, box",
        },
    )
    assert config.settings.allowed_hosts == ("edge.local", "box")
    assert config.settings.engine == EngineOptions(
        use_extra_bufts=False, max_gap_ms=100.0, cache_dir=Path("/var/cache/spillover")
    )


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    config = loaded(f"api_keys = ['{KEY}', '{KEY}2']", tmp_path)
    setting = next(setting for setting in setting_list() if setting.is_secret)
    assert config.settings.api_keys == (KEY, f"{KEY}2")
    assert config.shown(setting) == "********, ********"


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({}, {"SPILLOVER_API_KEY": f"{KEY},short"}),
        ({"api_keys": (KEY, "short")}, {}),
    ],
)
def test_a_wrong_key_is_never_shown_either(
    flags: dict[str, object], environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="8 to 512 characters") as error:
        load(flags, environ=environ)
    assert "canary" not in str(error.value)
    assert "short" not in str(error.value)


def test_a_wrong_key_in_the_file_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"api_keys: \*+ is not allowed") as error:
        loaded(f"api_keys = ['{KEY}', 7]", tmp_path)
    assert "canary" not in str(error.value)


def test_a_file_with_keys_that_others_may_read_causes_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"api_keys = ['{KEY}']")
    path.chmod(0o640)
    (warning,) = load({}, environ={}, config_flag=path).warnings
    assert f"chmod 600 {path}" in warning


def test_keys_come_from_a_key_file_and_the_flag_together(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\ufefftablet-key\n  # the phone's\n\nphone-key-1\n", "utf-8")
    path.chmod(0o600)
    environ = {"SPILLOVER_API_KEY": "from-environment"}
    config = load({"api_keys": ("flag-key-1",)}, environ=environ, api_key_file=path)
    assert config.settings.api_keys == ("tablet-key", "phone-key-1", "flag-key-1")
    assert config.warnings == ()


def test_an_empty_key_file_does_not_open_the_endpoint(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ConfigError, match="contains no key"):
        load({}, environ={}, api_key_file=tmp_path / "keys")


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        config_file.write(tmp_path / "config.toml", "port = 1\n")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_can_describe_what_is_allowed() -> None:
    for setting in setting_list():
        assert setting_type.describe(setting.type) != "something else", setting.name


def documented_file() -> str:
    """The example of the documentation that sets up the cloud."""
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text("utf-8")
    return text.split("## Handing answers over", 1)[1].split("```toml\n", 1)[1].split("```", 1)[0]


def test_the_documented_file_sets_up_the_cloud(tmp_path: Path) -> None:
    config = loaded(documented_file(), tmp_path)
    cloud = config.settings.cloud
    assert cloud.fallback == "ask"
    assert [p.name for p in cloud.providers] == ["workstation", "claude"]
    assert cloud.providers[1].prices is not None
    assert cloud.budget.total.usd_per_day == 0.5
    assert cloud.policy.rules[0].words == ("contract", "clause")
    assert cloud.privacy.patterns[0].name == "CUSTOMER"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[provider]]\nname = 'a'\ndialect = 'openai'", "provider.*model"),
        (
            "[[provider]]\nname = 'a'\ndialect = 'opnai'\nmodel = 'm'",
            "provider.*dialect.*'opnai'.*one of anthropic, azure",
        ),
        ("[policy]\nswitched_off = ['batery']", "switched_off.*'batery'.*battery.*user"),
        ("[policy]\ndecode_floor = 'fast'", "policy.decode_floor: Expected `float`"),
        (
            "[[provider]]\nname = 'a'\ndialect = 'openai'\nmodel = 'm'\napi_key = 'sk-1'",
            "must not hold a key: run `spillover keys set a`",
        ),
        (
            "[[provider]]\nname = 'a'\ndialect = 'openai'\nmodel = 'm'\n" * 2,
            "two .* have the name a",
        ),
        (
            "[[provider]]\nname = 'a'\ndialect = 'openai'\nmodel = 'm'\nbase_url = 'http://far.example'",
            "unencrypted",
        ),
        ("[policy]\nqueue_seconds = 3", "policy: .*queue_seconds"),
        ("[policy]\nlocal_languages = ['english']", r"policy.local_languages\[0\]"),
        ("[[policy.rules]]\nname = 'a'", r"policy.rules\[0\]: the rule 'a' matches nothing"),
        ("[budget.total]\nusd_per_day = -1", "budget.total.usd_per_day"),
        ("[budget.total]\nusd_per_dya = 1", "budget.total: .*usd_per_dya"),
        ("[budget]\nusd_per_day = 1", "budget: .*usd_per_day"),
        ("[budget.providers.x]\nusd_per_day = 1", "no .*provider.* has the name x"),
        ("[privacy]\nkinds = ['emial']", "privacy.kinds.*emial"),
        ("[privacy]\nphone_regions = ['UK']", r"privacy.phone_regions\[0\]: UK is no country"),
        (
            "[[privacy.patterns]]\nname = 'a'\npattern = '('",
            r"privacy.patterns\[0\].pattern: .*'a'",
        ),
    ],
)
def test_an_error_in_a_table_names_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(text, tmp_path)


def test_no_key_of_a_wrong_table_is_shown(tmp_path: Path) -> None:
    text = f"[[provider]]\nname = 'a'\ndialect = 'openai'\nmodel = 'm'\napi_key = '{KEY}'"
    with pytest.raises(ConfigError) as caught:
        loaded(text, tmp_path)
    assert KEY not in str(caught.value)
