"""Keys come from where they were put, and go only where they were given for."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.credentials.secret import Secret
from spillover.cloud_fallback.providers.keys import KeyringFailed, Keys, advice
from spillover.cloud_fallback.providers.settings import ProviderSettings
from tests.in_memory_ring import InMemoryRing

KEY = "sk-canary-0123456789"


class BrokenRing(InMemoryRing):
    """A keyring that is locked, or whose service does not run."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError(f"no D-Bus, while it looked for {KEY}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.get_password(service, username)


def provider(dialect: Any = "openai", **fields: Any) -> ProviderSettings:
    needed = {"azure": "https://mine.openai.azure.com", "tgi": "https://tgi.example"}
    base = {"base_url": needed[dialect]} if dialect in needed else {}
    return ProviderSettings(**({"name": "work", "dialect": dialect, "model": "m"} | base | fields))


def found(settings: ProviderSettings, **environ: str) -> str | None:
    key = Keys(environ, InMemoryRing()).find(settings)
    return key.reveal() if key else None


@pytest.mark.parametrize(
    ("dialect", "variable"),
    [(company.name, name) for company in COMPANIES.values() for name in company.key_variables],
)
def test_the_variables_of_each_company_are_read(dialect: Any, variable: str) -> None:
    assert found(provider(dialect), **{variable: KEY}) == KEY


def test_a_named_variable_goes_before_the_convention() -> None:
    settings = provider(key_variable="MY_KEY")
    assert found(settings, MY_KEY=KEY, OPENAI_API_KEY="other") == KEY
    assert found(settings, OPENAI_API_KEY="other") is None


def test_an_empty_variable_is_ignored() -> None:
    assert found(provider(), OPENAI_API_KEY="  ") is None


def test_the_keyring_is_asked_last() -> None:
    ring = InMemoryRing()
    Keys({}, ring).store("work", "from the ring")
    settings = provider()
    assert Keys({"OPENAI_API_KEY": KEY}, ring).find(settings) is not None
    kept = Keys({}, ring).find(settings)
    assert kept is not None
    assert (kept.reveal(), kept.origin) == ("from the ring", "keyring")
    assert Keys({}, ring).find(provider(name="play")) is None


@pytest.mark.parametrize(
    ("dialect", "base_url"),
    [
        ("openai", "https://gateway.example/v1"),
        ("openai", "https://api.openai.com.evil.example/v1"),
        ("openai", "https://evil.example/api.openai.com"),
        ("openai", "http://192.168.1.7:8000/v1"),
        ("anthropic", "https://xapi.anthropic.com.example"),
        ("huggingface", "https://endpoints.huggingface.cloud.example"),
        ("bedrock", "https://bedrock-runtime.s3.amazonaws.com"),
        ("bedrock", "https://api-id.execute-api.us-east-1.amazonaws.com"),
        ("azure", "https://openai.azure.com.example"),
    ],
)
def test_the_key_of_a_company_does_not_go_to_another_host(dialect: Any, base_url: str) -> None:
    settings = provider(dialect, base_url=base_url, is_local_network=True)
    variables = [name for company in COMPANIES.values() for name in company.key_variables]
    assert found(settings, **dict.fromkeys(variables, KEY)) is None
    assert found(msgspec.structs.replace(settings, key_variable="K"), K=KEY) == KEY


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:1/v1"]
)
def test_this_device_does_not_count_as_another_host(base_url: str) -> None:
    assert found(provider(base_url=base_url), OPENAI_API_KEY=KEY) == KEY


@pytest.mark.parametrize(
    ("dialect", "base_url"),
    [
        ("openai", "https://eu.api.openai.com/v1"),
        ("azure", "https://mine.cognitiveservices.azure.com"),
        ("vertex", "https://europe-west4-aiplatform.googleapis.com"),
        ("huggingface", "https://x1.eu-west-1.aws.endpoints.huggingface.cloud"),
        ("bedrock", "https://bedrock-runtime.us-gov-west-1.amazonaws.com"),
    ],
)
def test_the_other_hosts_of_a_company_are_its_own(dialect: Any, base_url: str) -> None:
    settings = provider(dialect, base_url=base_url)
    assert found(settings, **{COMPANIES[dialect].key_variables[0]: KEY}) == KEY


def test_a_project_of_vertex_ai_is_entered_with_tokens() -> None:
    assert found(provider("vertex", project="p"), GOOGLE_API_KEY=KEY) is None


def test_the_advice_names_the_variable_and_the_command() -> None:
    assert advice(provider()) == (
        "there is no key: set OPENAI_API_KEY, or run `spillover keys set work`"
    )
    elsewhere = provider(base_url="https://gateway.example/v1")
    assert "gateway.example" in advice(elsewhere)
    assert "OPENAI_API_KEY" not in advice(elsewhere)


def test_a_keyring_that_fails_has_no_keys() -> None:
    keys = Keys({}, BrokenRing())
    assert keys.find(provider()) is None
    assert keys.names() == []
    assert not keys.delete("work")


def test_a_keyring_that_fails_to_store_says_so_without_the_key() -> None:
    with pytest.raises(KeyringFailed) as caught:
        Keys({}, BrokenRing()).store("work", KEY)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_names_are_kept_beside_the_keys() -> None:
    keys = Keys({}, InMemoryRing())
    keys.store("b", KEY)
    keys.store("a", KEY)
    assert keys.names() == ["a", "b"]
    assert keys.delete("a")
    assert keys.names() == ["b"]


def test_a_secret_is_never_shown() -> None:
    secret = Secret(KEY, "X")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr([secret]), str(vars)]
    assert not any(KEY in text for text in shown)
    assert not hasattr(secret, "__dict__")
    for write in (pickle.dumps, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            write(secret)
    assert secret.reveal() == KEY
