"""docs/providers.md shows what is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from spillover.cloud_fallback.providers.companies import COMPANIES, SERVERS, WireFormat
from spillover.cloud_fallback.providers.settings import ProviderSettings

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
TEXT = DOCS.read_text("utf-8")
SNIPPETS = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
SHOWN = [table for snippet in SNIPPETS for table in tomllib.loads(snippet)["provider"]]


@pytest.mark.parametrize("table", SHOWN, ids=lambda table: table["name"])
def test_every_table_is_taken(table: dict[str, object]) -> None:
    assert msgspec.convert(table, ProviderSettings).address.startswith("http")


def test_every_dialect_is_shown_with_a_table_and_its_key() -> None:
    assert {table["dialect"] for table in SHOWN} == set(COMPANIES)
    for company in COMPANIES.values():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{company.name}` |"))
        variables = re.findall(r"`([A-Z_]+)`", row.split("|")[4])
        assert variables == list(company.key_variables)


def test_every_dialect_is_shown_with_its_address() -> None:
    table = TEXT[TEXT.index("| `dialect` |") : TEXT.index("Without prefill")]
    rows = [row.split("|") for row in table.strip().splitlines()[2:]]
    assert [row[1].strip(" `") for row in rows] == list(COMPANIES)
    for row, company in zip(rows, COMPANIES.values(), strict=True):
        assert row[3].strip(" `") == (company.address("REGION") or "none of its own")


def test_every_kind_of_server_is_named_with_its_capabilities() -> None:
    table = TEXT[TEXT.index("| `server` |") : TEXT.index("Without `server`")]
    for name, server in SERVERS.items():
        row = next(line for line in table.splitlines() if f"`{name}`" in line.split("|")[1])
        assert (row.split("|")[2].strip() == "yes") == (server.prefill != "none"), name
        grammars = row.split("|")[4]
        assert ("regular expression" in grammars) == (server.regex_field is not None), name
        assert ("GBNF" in grammars) == (server.gbnf_field is not None), name
        assert ("Lark" in grammars) == (server.lark_field is not None), name


def test_every_wire_format_has_a_column_of_what_it_can_express() -> None:
    head = TEXT.partition("## What each dialect can express")[2].strip().partition("\n")[0]
    assert set(get_args(WireFormat)) <= set(re.findall(r"\w+", head))
