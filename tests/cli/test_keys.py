"""`spillover keys`: from outside, with a keyring that forgets."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.keys import SERVICE
from spillover.edge_server import cli
from tests.in_memory_ring import InMemoryRing

KEY = "sk-canary-0123456789"


class ForgetfulKeyring(InMemoryRing, KeyringBackend):
    priority = 1.0

    def __init__(self) -> None:
        KeyringBackend.__init__(self)  # type: ignore[no-untyped-call]  # keyring has no types here
        InMemoryRing.__init__(self)


@pytest.fixture(autouse=True)
def ring(monkeypatch: pytest.MonkeyPatch) -> Generator[ForgetfulKeyring]:
    for variable in (v for company in COMPANIES.values() for v in company.key_variables):
        monkeypatch.delenv(variable, raising=False)
    before, ring = keyring.get_keyring(), ForgetfulKeyring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\n"))


def places(capsys: pytest.CaptureFixture[str]) -> dict[str, str | None]:
    capsys.readouterr()
    assert cli.run(["keys", "list", "--json"]) == 0
    found: dict[str, str | None] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("typed")
def test_a_key_is_stored_listed_and_deleted_and_never_shown(
    ring: ForgetfulKeyring, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "set", "openai"]) == 0
    assert ring.passwords[SERVICE, "openai"] == KEY
    assert KEY not in "".join(capsys.readouterr())
    assert places(capsys)["openai"] == "keyring"
    assert cli.run(["keys", "list"]) == 0
    assert KEY not in "".join(capsys.readouterr())
    assert cli.run(["keys", "delete", "openai"]) == 0
    assert ring.passwords == {}
    assert places(capsys)["openai"] is None


@pytest.mark.usefixtures("typed")
def test_a_provider_that_the_user_named_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["keys", "set", "box.next-door"])
    assert places(capsys)["box.next-door"] == "keyring"


def test_a_configured_provider_is_listed_with_its_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Only companies were: a key in another variable seemed to be missing.
    table = 'name = "box"\ndialect = "openai"\nbase_url = "http://box:8000/v1"\nmodel = "m"'
    file = tmp_path / "config.toml"
    file.write_text(f'[[provider]]\n{table}\nkey_variable = "BOX_KEY"')
    monkeypatch.setenv("SPILLOVER_CONFIG", str(file))
    assert places(capsys)["box"] is None
    monkeypatch.setenv("BOX_KEY", KEY)
    assert places(capsys)["box"] == "BOX_KEY"


def test_variables_are_listed_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    found = places(capsys)
    assert (found["gemini"], found["vertex"], found["openai"]) == (
        "GOOGLE_API_KEY",
        "GOOGLE_API_KEY",
        None,
    )


def test_a_terminal_prompts_for_a_key_without_echo(
    ring: ForgetfulKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: KEY)
    assert cli.run(["keys", "set", "openai"]) == 0
    assert ring.passwords[SERVICE, "openai"] == KEY


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "k\x00y\n", "schlüssel\n", "\udcff\n"])
def test_something_that_is_not_a_key_is_not_stored(
    ring: ForgetfulKeyring, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    content = io.BytesIO(text.encode(errors="surrogateescape"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content, "utf-8"))
    assert cli.run(["keys", "set", "openai"]) == 1
    assert ring.passwords == {}


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("name", [".names", "", "a b", "--x"])
def test_a_name_that_no_provider_can_have_is_wrong_use(ring: ForgetfulKeyring, name: str) -> None:
    assert cli.run(["keys", "set", name]) == 2
    assert ring.passwords == {}


def test_the_key_is_not_an_argument() -> None:
    assert cli.run(["keys", "set", "openai", KEY]) == 2


def test_deleting_a_key_that_is_not_there_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["keys", "delete", "openai"]) == 1
    assert "no key of openai" in capsys.readouterr().err


@pytest.mark.usefixtures("typed")
def test_a_device_without_a_keyring_is_referred_to_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]  # keyring has no types here
    assert cli.run(["keys", "set", "openai"]) == 1
    said = capsys.readouterr().err
    assert "variable" in said
    assert KEY not in said
    assert places(capsys)["openai"] is None
