"""Takes the pictures of docs/page.md: python -m tests.edge_server.page.pictures [NAME …]

Each shows the real page with the bundled model; a fake provider stands in for the cloud.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Route, expect, sync_playwright

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import PATIENCE_MS, Visit, launched
from tests.edge_server.routed import routed_server
from tests.fakes.fake import Fake
from tests.fakes.script import Act

FOLDER = Path(os.environ.get("PICTURES", "docs/images"))
LETTER = "Write to my doctor, ada.fox@example.org: I would like to come on Monday at nine."
TO_WEBP = """async (png) => {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    Object.assign(canvas, {width: image.width, height: image.height});
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/webp", 0.92).split(",")[1];
}"""
REST = (
    ' and then a small cloud came by. "Hello, Ruby," said the cloud. "Shall we look **together**?"'
)
REST += "\n\n- under the bed\n- in the garden\n\nRuby jumped for joy."
TABLES = """
[budget.total]
usd_per_day = 0.50
[policy]
switched_off = ["refusal", "language", "wrong_script", "repetition"]
[[policy.rules]]
name = "letters"
words = ["doctor"]
"""
PRICED = "prices = { input_usd = 2.0, output_usd = 10.0, priced_on = 2026-11-01 }\nvision = true"


@contextlib.contextmanager
def place(fallback: str) -> Iterator[Server]:
    """A server whose provider is named as one could be."""
    fake = Fake()
    fake.script(Act(rest=REST))
    with tempfile.TemporaryDirectory() as folder:
        server = routed_server(Path(folder), fake, fallback=fallback, fields=PRICED, tables=TABLES)
        try:
            yield server
        finally:
            server.stop()
            fake.stop()


def at_length(one: Visit, **fields: object) -> None:
    """Lets answers go on until they are stopped or handed over."""

    def change(route: Route) -> None:
        body = json.loads(str(route.request.post_data))
        body |= {"temperature": 0, "ignore_eos": True, "max_tokens": 900, **fields}
        route.continue_(post_data=json.dumps(body))

    one.page.route("**/v1/chat/completions", change)


def wait_text(one: Visit, n_chars: int) -> None:
    body = one.page.locator(".message.answer .markdown").last
    expect(body).to_contain_text(re.compile(rf"[\s\S]{{{n_chars}}}"), timeout=PATIENCE_MS)


def keep(one: Visit, name: str) -> None:
    one.page.mouse.move(0, 0)
    one.page.evaluate("document.activeElement.blur()")
    png = base64.b64encode(one.page.screenshot()).decode()
    blank = one.context.new_page()
    webp = blank.evaluate(TO_WEBP, png)
    (FOLDER / f"page-{name}.webp").write_bytes(base64.b64decode(webp))


def light(browser: Browser, name: str, scheme: str = "light") -> None:
    with place("auto") as server:
        one = Visit(browser, f"{server.url}/", viewport=WIDE, color_scheme=scheme)
        one.send("Once upon a time there was a fox named Ruby.")
        one.wait_end()
        one.send("And then?")
        one.wait_end()
        if scheme == "light":
            one.page.click("#model")
        keep(one, name)


def dark(browser: Browser, name: str) -> None:
    light(browser, name, "dark")


def handoff(browser: Browser, name: str) -> None:
    with place("auto") as server:
        one = Visit(browser, f"{server.url}/", viewport=WIDE)
        one.page.select_option("#dial", "auto")
        at_length(one)
        one.send(STORY)
        wait_text(one, 150)
        one.page.get_by_role("button", name="Ask the cloud").click()
        one.wait_end()
        keep(one, name)


def consent(browser: Browser, name: str) -> None:
    with place("ask") as server:
        one = Visit(browser, f"{server.url}/", viewport=WIDE)
        one.page.select_option("#dial", "ask")
        at_length(one)
        one.send(LETTER)
        one.page.get_by_text("Show what would be sent").click()
        one.page.wait_for_selector(".preview mark")
        keep(one, name)


def device(browser: Browser, name: str) -> None:
    with place("auto") as server:
        one = Visit(browser, f"{server.url}/", viewport=WIDE)
        one.page.select_option("#dial", "auto")
        at_length(one)
        one.page.click("#open-device")
        one.send(STORY)
        wait_text(one, 900)
        one.page.get_by_role("button", name="Ask the cloud").click()
        one.wait_end()
        one.page.wait_for_selector(".handoffs time")
        at_length(one, max_tokens=600)
        one.page.select_option("#dial", "ask")
        one.send("Once upon a time there was a fox named Ruby.")
        wait_text(one, 700)
        keep(one, name)


def phone(browser: Browser, name: str) -> None:
    with place("auto") as server:
        view = {"width": 360, "height": 740}
        one = Visit(browser, f"{server.url}/", viewport=view, device_scale_factor=2)
        one.page.select_option("#dial", "auto")
        at_length(one)
        one.send(STORY)
        wait_text(one, 100)
        one.page.get_by_role("button", name="Ask the cloud").click()
        one.wait_end()
        keep(one, name)


WIDE = {"width": 1100, "height": 720}
PICTURES: dict[str, Callable[[Browser, str], None]] = {
    "light": light,
    "dark": dark,
    "handoff": handoff,
    "consent": consent,
    "device": device,
    "phone": phone,
}


def main() -> None:
    with sync_playwright() as playwright, contextlib.closing(launched(playwright)) as browser:
        for name in sys.argv[1:] or PICTURES:
            PICTURES[name](browser, name)


if __name__ == "__main__":
    main()
