"""A company whose API is like OpenAI's is one record: nothing else needs to know of it."""

from __future__ import annotations

import msgspec
import pytest

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.companies import COMPANIES, Company, Server
from spillover.cloud_fallback.providers.keys import Keys, advice
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.edge_server import cli
from spillover.runtime.sampling import Sampling
from tests.answers import ask, text_of
from tests.fakes.fake import Fake
from tests.in_memory_ring import InMemoryRing

ACME = Company(
    name="acme",
    base_url="https://api.acme.example/v1",
    hosts=r"api\.acme\.example",
    key_variables=("ACME_API_KEY",),
    server=Server(name="acme", n_stops=2, samplers={"top_k": "top_k"}),
)
KEY = "acme-0123456789"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPANIES, "acme", ACME)


def acme(**fields: str) -> ProviderSettings:
    return msgspec.convert(
        {"name": "work", "dialect": "acme", "model": "m"} | fields, ProviderSettings
    )


def test_it_is_asked_at_its_address_with_its_own_key() -> None:
    settings = acme()
    assert settings.address == "https://api.acme.example/v1"
    assert advice(settings).startswith("there is no key: set ACME_API_KEY")
    key = Keys({"ACME_API_KEY": KEY}, InMemoryRing()).find(settings)
    assert key is not None
    assert key.reveal() == KEY
    elsewhere = acme(base_url="https://gateway.example/v1")
    assert Keys({"ACME_API_KEY": KEY}, InMemoryRing()).find(elsewhere) is None


def test_it_is_asked_for_what_its_servers_take_and_answers(
    fake: Fake, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = msgspec.structs.replace(ACME, base_url=f"{fake.url}/v1")
    monkeypatch.setitem(COMPANIES, "acme", here)
    engine = build_engine(acme(), keys=Keys({"ACME_API_KEY": KEY}, InMemoryRing()), http=http)
    request = ask(sampling=Sampling(top_k=7), stop=("a b", "c d", "e f"))
    assert text_of(engine.stream(request)) == "Hello from the cloud."
    (sent,) = fake.requests
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert (sent.json()["top_k"], sent.json()["stop"]) == (7, ["a b", "c d"])


def test_its_key_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["keys", "list"]) == 0
    assert "acme" in capsys.readouterr().out
