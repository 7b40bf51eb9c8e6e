"""spillover connect: one command from an address to a provider that is known to work."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spillover.cloud_fallback.privacy.standing import FILE_NAME, StandingConsents
from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.edge_server import cli
from spillover.edge_server.commands.connect import connect
from spillover.edge_server.commands.connect.target import provider_at
from spillover.edge_server.config import config_file
from spillover.edge_server.errors import ConfigError
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Page, Tokens
from tests.in_memory_ring import InMemoryRing

KEY = "sk-canary-of-connect"
MODELS = Page(
    body=json.dumps({"data": [{"id": "qwen", "owned_by": "vllm", "max_model_len": 4096}]})
)


class Place:
    """A configuration file that `spillover connect` writes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = folder / "own" / "config.toml"
        self._capsys = capsys

    def connect(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and all that was said."""
        code = cli.run(["connect", *arguments, "--config", str(self.file)])
        captured = self._capsys.readouterr()
        assert "canary" not in captured.out + captured.err
        return code, captured.out + captured.err

    @property
    def content(self) -> Any:
        return tomllib.loads(self.file.read_text()) if self.file.exists() else None


@pytest.fixture
def place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.setenv("SPILLOVER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with open(os.devnull) as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        yield Place(tmp_path, capsys)


def test_an_address_is_all_that_is_needed(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    fake.script(Act(text="ready", usage=Tokens(prompt=20, completion=2)))
    code, said = place.connect(f"127.0.0.1:{fake.port}")
    assert code == 0, said
    assert "(vllm) answers: 'ready'" in said
    assert "20 tokens asked, 2 answered; free: a machine of your own" in said
    assert place.content == {
        "fallback": "ask",
        "provider": [
            {
                "name": "127.0.0.1",
                "dialect": "openai",
                "model": "qwen",
                "base_url": f"{fake.url}/v1",
                "n_ctx": 4096,
            }
        ],
    }
    (request,) = fake.requests
    assert json.loads(request.body)["messages"] == [
        {"role": "user", "content": "Reply with one word: ready"}
    ]
    assert place.file.stat().st_mode & 0o777 == 0o600


def test_a_second_time_changes_nothing_and_remove_undoes_it(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    place.connect(fake.url)
    before = place.file.read_text()
    code, said = place.connect(fake.url)
    assert (code, place.file.read_text()) == (0, before)
    assert "already: nothing was changed" in said
    assert place.connect("127.0.0.1")[0] == 0  # by its name
    code, said = place.connect(fake.url, "--model", "other")
    assert code == 2
    assert "choose another --name" in said
    standing = StandingConsents(Path(os.environ["SPILLOVER_DATA_DIR"]) / FILE_NAME)
    standing.decide("", "127.0.0.1", granted=True)
    code, said = place.connect("127.0.0.1", "--remove")
    assert (code, standing.all()) == (0, [])
    assert "is forgotten" in said
    assert place.content == {}
    assert place.connect("127.0.0.1", "--remove")[0] == 0
    assert "has no provider gone: nothing" in place.connect("gone", "--remove")[1]


@pytest.mark.parametrize("length", [2**70, True, -1, 1, "4096"])
def test_an_absurd_context_of_a_server_does_not_spoil_the_file(
    place: Place, fake: Fake, length: object
) -> None:
    """The file was written, and could not be read any more."""
    fake.show(
        {"/v1/models": Page(body=json.dumps({"data": [{"id": "m", "max_model_len": length}]}))}
    )
    fake.script(Act(text="ready"))
    code, said = place.connect(fake.url)
    assert code == 0, said
    assert "n_ctx" not in place.content["provider"][0]
    assert place.connect("127.0.0.1")[0] == 0


@pytest.mark.parametrize("kind", ["pipe", "below a file"])
def test_a_file_that_cannot_be_written_is_known_before_anything_is_sent(
    place: Place, fake: Fake, kind: str
) -> None:
    """A device or pipe was replaced by a file, and the request was paid for in vain."""
    fake.show({"/v1/models": MODELS})
    place.file.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(place.file)
    else:
        place.file.parent.rmdir()
        place.file.parent.write_text("")
    code, said = place.connect(fake.url)
    assert code == 2
    assert "cannot be written: " in said
    assert (fake.requests, fake.record.pages) == ([], [])
    assert not place.file.is_file()


def test_names_that_would_steer_the_terminal_are_not_models(place: Place, fake: Fake) -> None:
    models = [{"id": "\x1b]0;owned\x07"}, {"id": "two\nlines"}]
    fake.show({"/v1/models": Page(body=json.dumps({"data": models}))})
    code, said = place.connect(fake.url)
    assert code == 2
    assert "owned" not in said
    assert "it lists no models: is it the right address?" in said


def test_print_writes_nothing_and_sends_no_request(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    code, said = place.connect(fake.url, "--print")
    assert code == 0
    assert 'model = "qwen"' in said
    assert place.content is None
    assert fake.requests == []


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (Act(refusal="auth"), "key"),
        (Act(refusal="not_found"), "not"),
        (Act(text="rea", cut="clean", cut_after_chunks=1), "end"),
    ],
)
def test_nothing_is_written_unless_it_answers(
    place: Place, fake: Fake, act: Act, cause: str
) -> None:
    fake.show({"/v1/models": MODELS})
    fake.script(act)
    code, said = place.connect(fake.url)
    assert code == 1
    assert cause in said
    assert f"127.0.0.1/qwen at {fake.url}/v1" in said
    assert "nothing was written" in said
    assert place.content is None
    ledger = Path(os.environ["SPILLOVER_DATA_DIR"]) / "ledger.sqlite3"
    with closing(Budget.at(ledger, BudgetSettings())) as budget:
        assert bool(budget.statement(())[0].spent.tokens) == (act.refusal is None)


def test_an_address_where_nothing_listens_is_named(place: Place, fake: Fake) -> None:
    fake.refuse_connections()
    code, said = place.connect(fake.url)
    fake.accept_connections()
    assert code == 1
    assert f"127.0.0.1 at {fake.url}/v1: the connection was refused" in said


def test_of_a_spillover_the_model_is_taken_that_it_serves(place: Place, fake: Fake) -> None:
    """It lists the bundled models, too, so that its address alone was never enough."""
    models = [{"id": name, "owned_by": "spillover"} for name in ("tales", "storyteller")]
    fake.show({"/v1/models": Page(body=json.dumps({"data": models}))})
    fake.script(Act(text="ready"))
    code, said = place.connect(fake.url)
    assert code == 0, said
    assert place.content["provider"][0]["model"] == "tales"


def test_where_there_is_a_choice_of_models_they_are_listed(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": Page(body=json.dumps({"data": [{"id": "b"}, {"id": "a"}]}))})
    code, said = place.connect(fake.url)
    assert code == 2
    assert "choose a model with --model: a, b" in said
    assert place.connect(fake.url, "--model", "b")[0] == 0
    assert place.content["provider"][0]["model"] == "b"


def test_prices_are_kept_and_the_cost_is_told_and_booked(
    place: Place, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.show({"/v1/models": MODELS})
    fake.script(Act(text="ready", usage=Tokens(prompt=20, completion=2)))
    code, said = place.connect(fake.url, "--input-usd", "3", "--output-usd", "15")
    assert code == 0
    assert "that cost $0.000090" in said
    assert "$0.0075" in said
    assert place.content["provider"][0]["prices"]["output_usd"] == 15.0
    assert cli.run(["budget", "--json", "--config", str(place.file)]) == 0
    assert "0.00009" in capsys.readouterr().out


def test_what_the_owner_set_stays(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    place.file.parent.mkdir()
    place.file.write_text('fallback = "never"  # mine\nport = 9000\n')
    _, said = place.connect(fake.url)
    assert 'fallback is "never"' in said
    assert place.file.read_text().startswith('fallback = "never"  # mine\nport = 9000\n')
    place.connect(fake.url, "--fallback", "auto")
    assert place.content["fallback"] == "auto"
    assert len(place.content["provider"]) == 1


def test_a_new_file_does_not_know_the_users_own(
    place: Place, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The providers of the user's own file counted for the file that was named, too."""
    fake.show({"/v1/models": MODELS})
    place.connect(fake.url)
    monkeypatch.setattr(config_file, "user_path", lambda own=place.file: own)
    place.file = tmp_path / "other.toml"
    assert place.connect(fake.url)[0] == 0
    assert len(place.content["provider"]) == 1


def test_the_rest_of_the_file_stays_to_the_byte(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    before = b'# mine\r\nfallback = "ask"\r\nport = 9000\r\n'
    place.file.parent.mkdir()
    place.file.write_bytes(before)
    place.file.chmod(0o640)
    link = place.file.with_name("link.toml")
    link.symlink_to(place.file)
    place.file = link
    assert place.connect(fake.url)[0] == 0
    assert link.read_bytes().startswith(before)
    assert link.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_written_is_one_line(place: Place, fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    place.file.parent.write_text("no folder")
    code, said = place.connect(fake.url)
    assert code == 2
    assert "cannot be written" in said


def test_without_a_key_a_company_is_not_asked(place: Place) -> None:
    code, said = place.connect("openai")
    assert code == 1
    assert "openai/gpt-4.1-mini at https://api.openai.com/v1: there is no key" in said
    assert "OPENAI_API_KEY" in said
    assert place.content is None


def test_a_server_that_wants_a_key_gets_it_from_a_variable(
    place: Place, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.show({"/v1/models": Page(status=401)})
    code, said = place.connect(fake.url, "--model", "m")
    assert code == 1
    assert "name its variable with --key-variable" in said
    fake.show({"/v1/models": MODELS})
    monkeypatch.setenv("BOX_KEY", KEY)
    assert place.connect(fake.url, "--key-variable", "BOX_KEY")[0] == 0
    assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert place.content["provider"][0]["key_variable"] == "BOX_KEY"


def test_a_key_that_is_typed_is_kept_only_if_it_works(
    place: Place, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = InMemoryRing()
    monkeypatch.setattr(connect, "Keys", lambda environ: Keys(environ, ring))
    monkeypatch.setattr(connect, "read_key", lambda _provider: KEY)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    fake.show({"/v1/models": MODELS})
    fake.script(Act(refusal="auth"))
    arguments = (fake.url, "--key-variable", "GONE", "--dialect", "anthropic", "--model", "m")
    monkeypatch.setattr(ProviderSettings, "is_own_machine", False)
    assert place.connect(*arguments)[0] == 1
    assert not ring.passwords
    fake.script(Act(text="ready"))
    assert place.connect(*arguments)[0] == 0
    assert KEY in ring.passwords.values()


def test_a_key_of_a_variable_is_named_nowhere(
    place: Place, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    fake.show({"/v1/models": MODELS})
    assert place.connect(fake.url)[0] == 0
    assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in place.file.read_text()


@pytest.mark.parametrize(
    ("target", "name", "dialect", "address"),
    [
        ("http://192.168.1.20:8000", "192.168.1.20", "openai", "http://192.168.1.20:8000/v1"),
        ("192.168.1.20:8000", "192.168.1.20", "openai", "http://192.168.1.20:8000/v1"),
        ("localhost:11434", "localhost", "openai", "http://localhost:11434/v1"),
        ("box.local:8080", "box", "openai", "http://box.local:8080/v1"),
        ("http://[fd00::1]:8080", "fd00--1", "openai", "http://[fd00::1]:8080/v1"),
        ("http://[::1]:8080", "localhost", "openai", "http://[::1]:8080/v1"),
        ("gateway.example", "gateway", "openai", "https://gateway.example/v1"),
        ("https://gateway.example/api/v2/", "gateway", "openai", "https://gateway.example/api/v2"),
        ("https://api.anthropic.com", "anthropic", "anthropic", "https://api.anthropic.com"),
        ("https://r.openai.azure.com", "r", "azure", "https://r.openai.azure.com"),
        ("openai", "openai", "openai", "https://api.openai.com/v1"),
    ],
)
def test_an_address_tells_the_rest(target: str, name: str, dialect: str, address: str) -> None:
    found = provider_at(target, model="m")
    assert (found.name, found.dialect, found.address) == (name, dialect, address)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "opnai",
        "http://",
        "ftp://box/",
        "http://8.8.8.8/v1",
        "a b:1",
        "azure",
        "http://[::1",
        "[::1",
    ],
)
def test_what_is_no_address_is_refused(target: str) -> None:
    with pytest.raises(ConfigError):
        provider_at(target, model="m")


def test_the_companies_that_need_no_more_have_a_model_to_begin_with() -> None:
    with_key = {n for n, c in COMPANIES.items() if c.base_url and c.without_key == "refused"}
    assert {n for n, c in COMPANIES.items() if c.first_model} == with_key - {"huggingface"}
