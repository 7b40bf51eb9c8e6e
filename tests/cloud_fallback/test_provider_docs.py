"""docs/providers.md shows what is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from spillover.cloud_fallback.providers.dialects.openai_servers import SERVERS
from spillover.cloud_fallback.providers.dialects.registry import DIALECT_NAMES, DialectName
from spillover.cloud_fallback.providers.keys import CONVENTIONS
from spillover.cloud_fallback.providers.provider import ProviderSettings

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
TEXT = DOCS.read_text("utf-8")
SNIPPETS = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
SHOWN = [table for snippet in SNIPPETS for table in tomllib.loads(snippet)["provider"]]


@pytest.mark.parametrize("table", SHOWN, ids=lambda table: table["name"])
def test_every_table_is_taken(table: dict[str, object]) -> None:
    assert msgspec.convert(table, ProviderSettings).address.startswith("http")


def test_every_dialect_is_shown_with_a_table_and_its_key() -> None:
    assert {table["dialect"] for table in SHOWN} == set(DIALECT_NAMES)
    for dialect in get_args(DialectName):
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{dialect}` |"))
        variables = re.findall(r"`([A-Z_]+)`", row.split("|")[3])
        assert variables == list(CONVENTIONS.get(dialect, ()))


def test_every_kind_of_server_is_named_with_what_it_can() -> None:
    table = TEXT[TEXT.index("| `server` |") : TEXT.index("Without `server`")]
    for name, server in SERVERS.items():
        row = next(line for line in table.splitlines() if f"`{name}`" in line.split("|")[1])
        assert (row.split("|")[2].strip() == "yes") == (server.prefill != "none"), name
        grammars = row.split("|")[4]
        assert ("regular expression" in grammars) == (server.regex_field is not None), name
        assert ("GBNF" in grammars) == (server.gbnf_field is not None), name
        assert ("Lark" in grammars) == (server.lark_field is not None), name
