"""Pages and desktop apps of the owner's choice may use the endpoint, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from spillover.edge_server.errors import ConfigError
from spillover.edge_server.web.origins import Origins
from tests.edge_server.conftest import Server

ALLOWED = ("app://obsidian.md", "https://notes.example:8443", "vscode-webview://*")
KEY = "a key of the tests"
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os, b@d",
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [flag for origin in ALLOWED for flag in ("--allowed-origin", origin)]
    server = Server(tmp_path_factory.mktemp("home"), *flags, "--api-key", KEY)
    yield server
    assert server.stop() == 0


@pytest.fixture
def page(strict: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=strict.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("origin", ["app://obsidian.md", "vscode-webview://1a2b"])
def test_an_allowed_page_asks_first_and_then_reads(page: httpx.Client, origin: str) -> None:
    path, headers = "/v1/chat/completions", {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    asked = page.options(path, headers=headers | ASKS)
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == origin
    assert asked.headers["Access-Control-Allow-Headers"] == (
        "authorization, content-type, x-stainless-os"
    )
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert page.post(path, json=CHAT, headers=headers).status_code == 401
    headers["Authorization"] = f"Bearer {KEY}"
    for stream in (False, True):
        response = page.post(path, json={**CHAT, "stream": stream}, headers=headers)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers


def test_errors_can_be_read_too(page: httpx.Client) -> None:
    response = page.post("/v1/chat/completions", json={}, headers={"Origin": ALLOWED[0]})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == ALLOWED[0]


def test_a_private_network_is_allowed_where_the_browser_asks(page: httpx.Client) -> None:
    headers = {"Origin": ALLOWED[1], "Access-Control-Request-Private-Network": "true", **ASKS}
    answer = page.options("/v1/models", headers=headers)
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "app://obsidian.md.evil", "https://notes.example",
     "vscode-webview:/x", "APP://obsidian.md"],
)  # fmt: skip
def test_others_are_refused(page: httpx.Client, origin: str) -> None:
    headers = {"Origin": origin, "Authorization": f"Bearer {KEY}"}
    response = page.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.status_code == 403
    assert "allowed_origins" in response.json()["error"]["message"]
    for answer in (response, page.options("/v1/models", headers=headers | ASKS)):
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "entry", ["*", "https://*", "example.org", "https://a/b", "app:/x", "*://x"]
)
def test_what_is_no_origin_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="allowed_origins"):
        Origins((entry,))


def test_without_a_list_no_header_is_added() -> None:
    assert Origins(()).headers("https://a.example") == {}
    assert not Origins(()).allows("null")
