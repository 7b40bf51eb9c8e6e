"""A configuration file gets a provider and loses it again, and nothing else in it changes."""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.edge_server.config.provider_tables import added, as_toml, removed, with_fallback
from spillover.edge_server.errors import ConfigError

BOX: dict[str, Any] = {
    "name": "box",
    "dialect": "openai",
    "model": 'odd "model" \\ ü',
    "base_url": "http://192.168.1.20:8000/v1",
    "prices": {"input_usd": 0.5, "output_usd": 2, "priced_on": date(2026, 11, 1)},
    "extra_headers": {"x-team": "edge"},
    "token_command": ["a", "b"],
    "is_local_network": False,
    "n_ctx": 8192,
}
OWN = """# my file
port = 9000   # not 8080

[[provider]]
name = "claude"
dialect = "anthropic"
model = "claude-haiku-4-5"
[provider.prices]
input_usd = 1
output_usd = 5
priced_on = 2026-11-01
# the end of it

[policy]
switched_off = ["battery"]
[[policy.rules]]
name = "provider"
words = ["[[provider]]"]
"""
TEXTS = [
    "",
    "\n",
    "port = 9000",
    "# only a comment\n",
    OWN,
    OWN.rstrip(),
    OWN.replace("\n", "\r\n"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_added_can_be_taken_out_again(text: str) -> None:
    new = with_fallback(added(text, BOX), "ask")
    read = tomllib.loads(new)
    assert read["provider"][-1] == BOX
    assert read["fallback"] == "ask"
    for line in text.splitlines():
        assert line in new
    back = removed(new, "box")
    meant = tomllib.loads(text)
    if "provider" in meant:  # another one is left, which the line is for as well
        meant["fallback"] = "ask"
    assert tomllib.loads(back) == meant
    for line in text.splitlines():
        assert line in back


def test_a_provider_in_the_middle_goes_with_the_tables_below_it() -> None:
    new = removed(added(OWN, BOX), "claude")
    assert [table["name"] for table in tomllib.loads(new)["provider"]] == ["box"]
    assert "priced_on = 2026-11-01\n# the end" not in new
    assert "# my file" in new
    assert tomllib.loads(new)["policy"] == tomllib.loads(OWN)["policy"]


def test_an_own_line_is_changed_where_it_stands_and_stays() -> None:
    text = 'port = 1\nfallback = "never"  # for now\n[policy]\nrules = []\n'
    new = with_fallback(text, "auto")
    assert new.startswith('port = 1\nfallback = "auto"  # by spillover connect\n[policy]')


@pytest.mark.parametrize(
    "text",
    [
        'provider = [{ name = "a", dialect = "openai", model = "m" }]\n',
        'x = """\n[[provider]]\nname = "box"\n',
    ],
)
def test_what_cannot_be_changed_safely_is_left_to_the_user(text: str) -> None:
    with pytest.raises((ConfigError, tomllib.TOMLDecodeError)):
        added(text, BOX)


def test_a_table_in_a_text_is_no_provider() -> None:
    text = 'alias = """\n[[provider]]\nname = "box"\n"""\n'
    new = added(text, BOX)
    assert tomllib.loads(removed(new, "box")) == tomllib.loads(text)


@given(st.text(max_size=40))
def test_every_text_is_read_as_it_was_written(model: str) -> None:
    table = {"name": "n", "model": model}
    assert tomllib.loads(as_toml(table)) == {"provider": [table]}
