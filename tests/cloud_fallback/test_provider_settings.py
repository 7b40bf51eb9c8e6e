"""A [[provider]] table is checked as a whole, and says what is wrong with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.settings import ProviderSettings


def convert(**fields: Any) -> ProviderSettings:
    table = {"name": "p", "dialect": "openai", "model": "m"} | fields
    return msgspec.convert(table, ProviderSettings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dialect": "azure"}, "azure needs a base_url"),
        ({"dialect": "tgi"}, "tgi needs a base_url"),
        ({"base_url": "http://api.example/v1"}, "unencrypted"),
        ({"base_url": "api.example"}, "must be like https://"),
        ({"base_url": "ftp://api.example"}, "must be like https://"),
        ({"base_url": "https://user:word@api.example"}, "must not hold a user"),
        ({"base_url": "https://:word@api.example"}, "must not hold a user"),
        ({"base_url": "https://api.example?key=1"}, "must not hold a user, a query"),
        ({"base_url": "https://api.example:port"}, "Port"),
        ({"extra_headers": {"Authorization": "Bearer x"}}, "key_variable"),
        ({"extra_headers": {"x-api-key": "x"}}, "key_variable"),
        ({"extra_headers": {"x-team": "a\r\nb: c"}}, "not a header"),
        ({"extra_headers": {"x team": "a"}}, "not a header"),
        ({"name": "a b"}, "regex"),
        ({"name": ".names"}, "regex"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"key": "sk-1"}, "unknown field"),
        ({"dialect": "smoke"}, "dialect"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        convert(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "http://127.0.0.1:9/v1"},
        {"base_url": "http://box.local:8000/v1"},
        {"base_url": "http://192.168.1.20:8000/v1"},
        {"base_url": "http://box.example:8000/v1", "is_local_network": True},
        {"base_url": "https://gateway.example/v1", "extra_headers": {"x-team": "edge"}},
        {"prices": {"input_usd": 1, "output_usd": 2.5, "priced_on": "2026-01-31"}},
        {"token_command": ["gcloud", "auth", "print-access-token"]},
    ],
)
def test_settings_that_go_together_are_accepted(fields: dict[str, Any]) -> None:
    assert convert(**fields)


def test_the_address_has_no_slash_at_its_end() -> None:
    assert convert(base_url="https://gateway.example/v1/").address == "https://gateway.example/v1"


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"dialect": "vertex"}, "https://aiplatform.googleapis.com"),
        (
            {"dialect": "vertex", "region": "europe-west4"},
            "https://europe-west4-aiplatform.googleapis.com",
        ),
        ({"dialect": "bedrock"}, "https://bedrock-runtime.us-east-1.amazonaws.com"),
        (
            {"dialect": "bedrock", "region": "eu-central-1"},
            "https://bedrock-runtime.eu-central-1.amazonaws.com",
        ),
    ],
)
def test_an_address_follows_from_the_region(fields: dict[str, Any], address: str) -> None:
    assert convert(**fields).address == address


@pytest.mark.parametrize(
    ("fields", "is_direct"),
    [
        ({}, False),
        ({"base_url": "http://localhost:8080/v1"}, True),
        ({"base_url": "https://box.example/v1", "is_local_network": True}, True),
    ],
)
def test_machines_on_the_lan_need_no_proxy(fields: dict[str, Any], is_direct: bool) -> None:
    assert convert(**fields).is_direct == is_direct


@pytest.mark.parametrize("dialect", sorted(set(COMPANIES) - {"azure", "tgi"}))
def test_every_own_address_is_at_home(dialect: str) -> None:
    assert convert(dialect=dialect).is_at_home


def test_every_company_has_its_hosts() -> None:
    hosts = {name for name, company in COMPANIES.items() if company.hosts}
    assert {name for name, company in COMPANIES.items() if company.base_url} <= hosts
    assert set(COMPANIES) - hosts == {"tgi"}


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("192.168.1.20", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("169.254.7.7", True),
        ("[fd00::1]", True),
        ("[fe80::1]", True),
        ("[::ffff:192.168.1.20]", True),
        ("workstation", True),
        ("nas.local", True),
        ("box.home.arpa", True),
        ("172.32.0.1", False),
        ("8.8.8.8", False),
        ("100.64.0.1", False),
        ("[::ffff:8.8.8.8]", False),
        ("[2001:db8::1]", False),
        ("134744072", False),  # which is 8.8.8.8, too
        ("0x08080808", False),
        ("local", True),
        ("api.example", False),
        ("evil-local", True),
        ("box.local.example", False),
        ("192.168.1.20.example", False),
    ],
)
def test_the_address_tells_the_owners_machines(host: str, near: bool) -> None:
    assert convert(base_url=f"https://{host}:8000/v1").is_own_machine == near


def test_the_setting_counts_more_than_the_address() -> None:
    """A proxy on this device that passes requests on to a company is no machine of one's own."""
    proxy = convert(base_url="http://127.0.0.1:4000/v1", is_local_network=False)
    assert not proxy.is_own_machine
    assert proxy.known_prices is None
    assert convert(base_url="https://box.example/v1", is_local_network=True).is_own_machine


@pytest.mark.parametrize(
    ("fields", "unknown"),
    [
        ({"base_url": "http://192.168.1.20:8000/v1"}, True),
        ({"base_url": "https://gateway.example/v1"}, True),
        ({"base_url": "http://192.168.1.20:8000/v1", "server": "vllm"}, False),
        ({"base_url": "http://192.168.1.20:8000/v1", "server": "other"}, False),
        ({}, False),
        ({"base_url": "https://openrouter.ai/api/v1"}, False),
        ({"dialect": "huggingface"}, False),
        ({"dialect": "azure", "base_url": "https://x.openai.azure.com"}, False),
        ({"dialect": "anthropic"}, False),
        ({"dialect": "tgi", "base_url": "http://192.168.1.30:8080"}, False),
    ],
)
def test_only_a_server_that_nothing_tells_is_asked(fields: dict[str, Any], unknown: bool) -> None:
    assert convert(**fields).is_server_unknown == unknown
