"""A real browser on the real page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, Playwright, expect, sync_playwright

from tests.edge_server.conftest import Server
from tests.edge_server.page.relay import Relay
from tests.edge_server.routed import routed_server
from tests.fakes.fake import Fake

PATIENCE_MS = 90_000
DRAWN = "#messages > *"
"""What the script of the page has drawn once it listens to the user."""
expect.set_options(timeout=PATIENCE_MS)
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def launched(playwright: Playwright) -> Browser:
    """A browser without a window."""
    path = shutil.which("chromium")
    assert path, "these tests need Chromium: apt-get install chromium"
    return playwright.chromium.launch(executable_path=path, args=_FLAGS.split())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: this thread has an event loop meanwhile, which no other test may meet."""
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


class Visit:
    """The page in a context of its own, and what went wrong in it."""

    def __init__(self, browser: Browser, url: str, *, script: str = "", **options: Any) -> None:
        """*script* runs before those of the page."""
        self.context = browser.new_context(**options)
        if script:
            self.context.add_init_script(script)
        self.context.set_default_timeout(PATIENCE_MS)
        self.url = url
        self.problems: list[str] = []
        self.strays: list[str] = []
        """Requests that left the server."""
        self.page = self.open()

    def open(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self._look(request.url))
        page.goto(self.url)
        page.wait_for_selector(DRAWN)
        return page

    def _note(self, kind: str, text: str) -> None:
        # The browser itself reports refused and broken requests, which tests provoke.
        if kind == "error" and "Failed to load resource" not in text:
            self.problems.append(text)

    def _dismiss(self, dialog: Dialog) -> None:
        self.problems.append("a dialog")
        dialog.dismiss()

    def _look(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.strays.append(url)

    def send(self, text: str) -> None:
        self.page.wait_for_selector(DRAWN)
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def answer_with(self, *events: dict[str, Any]) -> None:
        """Have the next answers made of *events*, instead of asking the server."""
        end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        stream = "".join(f"data: {json.dumps(part)}\n\n" for part in (*events, end))
        self.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(
                headers={"Content-Type": "text/event-stream"}, body=stream + "data: [DONE]\n\n"
            ),
        )

    def wait_end(self) -> None:
        """Until the last answer has ended."""
        self.page.wait_for_selector("#messages > :last-child > .answer:last-child:not(.running)")

    @property
    def answer(self) -> str:
        # What is new is not rendered before the next frame, and has no inner text until then.
        self.page.evaluate("() => new Promise(requestAnimationFrame)")
        return self.page.locator(".message.answer .markdown").last.inner_text()

    @property
    def status(self) -> str:
        return self.page.locator("#status").inner_text()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page"), "--parallel", "2")
    yield server
    server.stop()


@pytest.fixture
def relay(local: Server) -> Iterator[Relay]:
    relay = Relay(local.port)
    yield relay
    relay.stop()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens the page of a server; afterwards nothing may have gone wrong in it."""
    visits: list[Visit] = []

    def open_(server: Server | Relay, **options: Any) -> Visit:
        visits.append(Visit(browser, f"{server.url}/", **options))
        return visits[-1]

    yield open_
    for visit in visits:
        visit.context.close()
        assert visit.problems == []
        assert visit.strays == []


RENDER = """async ([text, size]) => {
    const {MarkdownView} = await import("/page/markdown/view.js");
    const node = document.createElement("div");
    const view = new MarkdownView(node);
    for (let at = 0; at < text.length; at += size) {
        view.append(text.slice(at, at + size));
        view.draw();
    }
    view.draw();
    return [...node.children].map((part) => part.innerHTML).join("");
}"""
"""What becomes of a text that comes in pieces of a size."""


@pytest.fixture(scope="module")
def one(browser: Browser, local: Server) -> Iterator[Visit]:
    """The page, for all tests of a file that ask its modules."""
    visit = Visit(browser, f"{local.url}/")
    yield visit
    visit.context.close()
    assert visit.problems == []
    assert visit.strays == []


POLICY = """
[budget.total]
usd_per_day = 0.5
[policy]
p_wrong_enter = 1.0
p_wrong_hold = 1.0
p_wrong_forget = 0.9
switched_off = ["language", "wrong_script", "refusal", "repetition"]
[[policy.rules]]
name = "letters"
words = ["doctor"]
"""
PRICED = """vision = true
prices = { input_usd = 2.0, output_usd = 10.0, priced_on = 2026-11-01 }"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Fake]]:
    """A server with a fake provider, which may be asked whenever a chat allows it."""
    fake = Fake()
    server = routed_server(tmp_path_factory.mktemp("routed"), fake, fields=PRICED, tables=POLICY)
    yield server, fake
    server.stop()
    fake.stop()


@pytest.fixture
def routed(place: tuple[Server, Fake]) -> Server:
    place[1].reset()
    return place[0]


@pytest.fixture
def fake(place: tuple[Server, Fake]) -> Fake:
    return place[1]
