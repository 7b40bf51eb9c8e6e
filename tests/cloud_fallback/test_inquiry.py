"""A server that neither the settings nor its address tell is asked what it is: once, briefly."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from spillover.cloud_fallback.errors import NetworkFailed
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.connecting import Resolver
from spillover.cloud_fallback.providers.build import build_engine
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.keys import Keys
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.cancellation import Cancellation
from tests.answers import ask
from tests.cloud_fallback.providers import KEY
from tests.fakes.fake import Fake
from tests.fakes.script import Page
from tests.in_memory_ring import InMemoryRing


def models(**fields: Any) -> Page:
    return Page(body=json.dumps({"object": "list", "data": [{"id": "m", **fields}]}))


def engine_at(url: str, http: Http, **fields: Any) -> CloudEngine:
    settings = ProviderSettings(
        name="box", dialect="openai", model="m", base_url=f"{url}/v1", **fields
    )
    return build_engine(settings, keys=Keys({"KEY": KEY}, InMemoryRing()), http=http)


PROPS = Page(body=json.dumps({"default_generation_settings": {}, "build_info": "b6700-abc"}))
OURS = Page(body=json.dumps({"default_generation_settings": {}, "build_info": "b-spillover-0.1"}))
VERSION = Page(body=json.dumps({"version": "0.12.3"}))


@pytest.mark.parametrize(
    ("pages", "kind"),
    [
        ({"/v1/models": models(owned_by="vllm")}, "vllm"),
        ({"/v1/models": models(owned_by="llamacpp")}, "llama-server"),
        ({"/v1/models": models(owned_by="sglang")}, "sglang"),
        ({"/v1/models": models(owned_by="spillover")}, "spillover"),
        ({"/v1/models": models(owned_by="library")}, "ollama"),
        ({"/v1/models": Page(status=401, headers={"server": "llama.cpp"})}, "llama-server"),
        ({"/v1/models": models(), "/props": PROPS}, "llama-server"),
        ({"/props": OURS}, "spillover"),
        ({"/api/version": VERSION}, "ollama"),
    ],
)
def test_a_server_tells_what_it_is(fake: Fake, pages: dict[str, Page], kind: str) -> None:
    fake.show(pages)
    http = Http()
    engine = engine_at(fake.url, http)
    assert not engine.may_prefill()
    assert engine.find_server()
    n_asked = len(fake.record.pages)
    assert engine.may_prefill() == (kind != "ollama")
    assert not engine.find_server()
    assert len(fake.record.pages) == n_asked <= 3
    assert fake.requests == []
    http.close()


@pytest.mark.parametrize(
    "page",
    [
        Page(status=404),
        Page(body="no JSON"),
        Page(body="[" * 100_000),
        Page(body='{"data": [{"id": 3}, "x", {"id": "m", "owned_by": ["vllm"]}]}'),
        Page(body='{"data": "' + "x" * 300_000 + '"}'),
        models(owned_by="somebody"),
    ],
    ids=["404", "words", "deep", "odd", "huge", "unknown"],
)
def test_a_server_that_says_nothing_stays_unknown(fake: Fake, page: Page) -> None:
    fake.show({"/v1/models": page, "/props": page, "/api/version": page})
    http = Http()
    engine = engine_at(fake.url, http)
    assert not engine.find_server()
    assert not engine.may_prefill()
    n_asked = len(fake.record.pages)
    assert not engine.find_server()
    assert len(fake.record.pages) == n_asked
    http.close()


def test_a_server_that_is_named_is_not_asked(fake: Fake) -> None:
    http = Http()
    assert not engine_at(fake.url, http, server="ollama").find_server()
    assert fake.record.accepted == 0
    http.close()


def test_a_company_is_asked_for_its_models_only(fake: Fake) -> None:
    http = Http()
    engine = engine_at(fake.url, http, is_local_network=False, key_variable="KEY")
    engine.find_server()
    assert fake.record.pages == ["/v1/models"]
    http.close()


def test_a_server_out_of_reach_is_asked_again_later(fake: Fake) -> None:
    fake.show({"/v1/models": models(owned_by="vllm")})
    http = Http()
    engine = engine_at(fake.url, http)
    fake.refuse_connections()
    assert not engine.find_server()
    fake.accept_connections()
    assert engine.find_server()
    http.close()


def test_the_inquiry_ends_with_the_answer(fake: Fake) -> None:
    http = Http()
    engine = engine_at(fake.url, http)
    gone = Cancellation()
    gone.cancel()
    began = time.monotonic()
    assert not engine.find_server(gone)
    assert time.monotonic() - began < 60  # it does not wait for its own time limit
    assert fake.record.pages == []
    http.close()


@pytest.mark.parametrize(
    ("address", "reached"), [("127.0.0.1", True), ("8.8.8.8", False), ("::ffff:8.8.8.8", False)]
)
def test_a_name_of_the_lan_that_leads_elsewhere_gets_nothing(
    fake: Fake, address: str, reached: bool
) -> None:
    """Its owner wrote no flag: the name alone must not send a conversation over the internet."""
    fake.show({"/v1/models": models(owned_by="vllm")})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    http = Http(resolver=Resolver(lambda _host, port: [(family, (address, port))]))
    engine = engine_at(f"http://workstation:{fake.port}", http)
    if reached:
        assert engine.find_server()
    else:
        with pytest.raises(NetworkFailed, match="leads to a machine on the internet"):
            engine.api.contact()
        with pytest.raises(NetworkFailed, match="leads to a machine on the internet"):
            list(engine.stream(ask()))
    http.close()
