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
        {"base_url": "http://box.local:8000/v1", "is_local_network": True},
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
