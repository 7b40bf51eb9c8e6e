"""What a user does on the page, in a real browser with the real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FilePayload, Route, expect

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import PATIENCE_MS, Visit
from tests.edge_server.page.relay import Relay
from tests.edge_server.routed import HOMELY, lines, routed_server
from tests.fakes.fake import Fake
from tests.fakes.script import Act
from tests.pictures import png

Open = Callable[..., Visit]


def without_end(one: Visit) -> None:
    """Lets answers go on to their longest length, so that there is time for what a test does."""

    def change(route: Route) -> None:
        body = json.loads(str(route.request.post_data)) | {"ignore_eos": True, "max_tokens": 900}
        route.continue_(post_data=json.dumps(body))

    one.page.route("**/v1/chat/completions", change)


def test_browsers_get_the_page_and_programs_a_hint(local: Server) -> None:
    page = httpx.get(local.url, headers={"Accept": "text/html,*/*"})
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "<!doctype html>" in page.text
    assert httpx.get(local.url).text.startswith("Spillover: a local endpoint")
    assert httpx.get(f"{local.url}/page/none.js").status_code == 404
    assert httpx.get(f"{local.url}/page/..%2f..%2fsetup.cfg").status_code == 404


def test_the_page_is_light(local: Server) -> None:
    folder = Path(str(files("spillover.edge_server").joinpath("page")))
    names = [str(file.relative_to(folder)) for file in folder.rglob("*.*") if file.is_file()]
    assert len(names) > 20
    html = (folder / "index.html").read_text("utf-8")
    assert {f"page/{name}" for name in names if name.endswith(".js")} <= set(
        re.findall(r'(?:src|href)="([^"]+)"', html)
    ), "a browser asks for all of them at once"
    with httpx.Client(base_url=local.url, headers={"Accept-Encoding": "gzip"}) as http:
        n_bytes = http.get("/", headers={"Accept": "text/html"}).num_bytes_downloaded
        for name in names:
            response = http.get(f"/page/{name}")
            n_bytes += response.num_bytes_downloaded
            known = {"If-None-Match": response.headers["etag"]}
            assert http.get(f"/page/{name}", headers=known).status_code == 304
    assert n_bytes <= 150_000


def test_a_question_is_answered_and_kept(local: Server, visit: Open) -> None:
    one = visit(local)
    one.send(STORY)
    one.wait_end()
    text = one.answer
    assert len(text) > 50
    assert "on this device" in one.page.locator(".badge").inner_text()
    assert one.status == "The answer is complete."
    one.page.reload()
    one.page.wait_for_selector(".message.answer")
    assert one.answer == text
    assert one.page.locator("#title").inner_text() == STORY


def test_an_answer_is_stopped(local: Server, visit: Open) -> None:
    one = visit(local)
    without_end(one)
    one.send(STORY)
    one.page.wait_for_selector(".answer .markdown p")
    one.page.press("#prompt", "Escape")
    one.wait_end()
    assert "You stopped this answer." in one.page.locator(".notes").inner_text()
    assert one.page.locator("#send").is_visible()


def test_regenerating_and_editing_make_branches(local: Server, visit: Open) -> None:
    one = visit(local)
    one.send("Once upon a time")
    one.wait_end()
    one.page.get_by_role("button", name="Regenerate").click()
    one.wait_end()
    one.page.locator(".answer .branches", has_text="2/2").wait_for()
    one.page.locator(".answer").get_by_role("button", name="Earlier version").click()
    one.page.locator(".answer .branches", has_text="1/2").wait_for()
    one.page.get_by_role("button", name="Edit").click()
    one.page.fill("dialog textarea", "There was a dog")
    one.page.click("dialog button.primary")
    one.wait_end()
    assert one.page.locator(".bubble").inner_text() == "There was a dog"
    assert "2/2" in one.page.locator(".user .branches").inner_text()


def test_reloading_in_mid_answer_loses_and_repeats_nothing(local: Server, visit: Open) -> None:
    one = visit(local)
    without_end(one)
    with one.page.expect_response("**/v1/chat/completions") as asked:
        one.send(STORY)
    stream = asked.value.headers["x-spillover-stream"]
    expect(one.page.locator(".answer .markdown")).to_contain_text(re.compile(".{60}"))
    one.page.reload()
    one.page.wait_for_selector(".message.answer")
    one.wait_end()
    with httpx.stream("GET", f"{local.url}/v1/streams/{stream}", timeout=60) as response:
        choices = [part for _, data in lines(response) for part in (data or {}).get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    (answer,) = (n for n in exported(one)["nodes"].values() if n["role"] == "assistant")
    assert answer["text"] == text


def exported(one: Visit) -> dict[str, Any]:
    """The chat, as the page exports it."""
    one.page.click("#export")
    with one.page.expect_download() as saved:
        one.page.get_by_role("button", name="JSON, to import again").click()
    chat: dict[str, Any] = json.loads(saved.value.path().read_text("utf-8"))
    return chat


def test_a_connection_that_breaks_is_taken_up_without_a_lost_or_repeated_character(
    local: Server, relay: Relay, visit: Open
) -> None:
    one = visit(relay)
    without_end(one)
    one.send(STORY)
    one.page.wait_for_selector(".answer .markdown p")
    with one.page.expect_request(re.compile("/v1/streams/.*after=")) as again:
        relay.cut()
    one.wait_end()
    assert "longest length" in one.page.locator(".notes").inner_text()
    text = ""
    whole = again.value.url.replace(relay.url, local.url).partition("?")[0]
    with httpx.stream("GET", whole, params={"after": 0}) as response:
        for _, data in lines(response):
            for choice in (data or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
    (answer,) = (n for n in exported(one)["nodes"].values() if n["role"] == "assistant")
    assert answer["text"] == text


def test_a_server_that_restarts_is_said_and_the_answer_goes_on(tmp_path: Path, visit: Open) -> None:
    server = Server(tmp_path, "--parallel", "2")
    try:
        one = visit(server)
        without_end(one)
        one.send(STORY)
        one.page.wait_for_selector(".answer .markdown p")
        server.stop(signal.SIGKILL)
        one.page.wait_for_selector(".message.answer.running .stage")
        server = Server(tmp_path, "--parallel", "2", "--port", str(server.port))
        one.page.evaluate("dispatchEvent(new Event('online'))")  # it tries at once
        one.wait_end()
        assert "The server was restarted" in one.page.locator(".notes").inner_text()
        before = one.answer
        one.page.get_by_role("button", name="Continue").click()
        one.wait_end()
        assert one.answer.startswith(before.rstrip()[:40])
        assert len(one.answer) > len(before)
    finally:
        server.stop()


def test_a_text_file_becomes_part_of_the_prompt(local: Server, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The fox is called Ruby.")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    one = visit(local)
    one.page.set_input_files("#attach-file", str(tmp_path / "photo.png"))
    expect(one.page.locator("#status")).to_contain_text("images")
    one.page.set_input_files("#attach-file", str(tmp_path / "notes.txt"))
    expect(one.page.locator("#files")).to_contain_text("tokens")
    with one.page.expect_request("**/v1/chat/completions") as sent:
        one.send("What is its name?")
    body = json.loads(str(sent.value.post_data))
    assert "File notes.txt:\n\nThe fox is called Ruby." in body["messages"][0]["content"]
    one.wait_end()


def test_the_prompt_is_counted_with_the_chat_and_its_files(local: Server, visit: Open) -> None:
    one = visit(local)
    n_counted = re.compile(r"^([\d,]+) of [\d,]+ tokens")

    def count() -> int:
        found = n_counted.match(one.page.locator("#count").inner_text())
        return int(found[1].replace(",", "")) if found else 0

    one.page.fill("#prompt", "Hello")
    expect(one.page.locator("#count")).to_have_text(n_counted)
    n_hello = count()
    file: FilePayload = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"fox " * 50}
    one.page.set_input_files("#attach-file", file)
    expect(one.page.locator("#count")).not_to_have_text(re.compile(f"^{n_hello} of"))
    assert count() >= n_hello + 50
    one.page.fill("#prompt", "fox " * 3000)
    expect(one.page.locator("#count")).to_contain_text("too long for the model on this device")
    one.page.get_by_role("button", name="Remove a.txt").click()
    one.page.fill("#prompt", "")
    expect(one.page.locator("#count")).to_be_empty()


def test_a_chat_chooses_its_model(routed: Server, visit: Open) -> None:
    one = visit(routed)
    one.page.click("#model")
    menu = one.page.locator("#models")
    assert "tokens of context" in menu.inner_text()
    assert "Q8_0" in menu.inner_text()
    expect(menu).to_contain_text("llama-cpp-python")
    menu.get_by_text("Private").click()
    one.page.keyboard.press("Escape")
    with one.page.expect_request("**/v1/chat/completions") as sent:
        one.send("Hello")
    assert json.loads(str(sent.value.post_data))["model"] == "private"
    one.wait_end()
    one.page.click("#new-chat")
    one.page.click("#model")
    menu.get_by_text("storyteller", exact=True).click()
    one.page.keyboard.press("Escape")
    expect(one.page.locator("#model")).to_have_text("storyteller")
    one.page.locator(".chat-name").click()
    expect(one.page.locator("#model")).to_have_text("Private")


@pytest.fixture
def two_models(tmp_path: Path) -> Iterator[Server]:
    fake = Fake()
    server = routed_server(tmp_path, fake, fallback="never", tables=HOMELY)
    yield server
    server.stop()
    fake.stop()


def test_the_dial_the_counts_and_the_panel_are_those_of_the_chosen_model(
    two_models: Server, visit: Open
) -> None:
    """They were those of the first model."""
    one = visit(two_models)
    expect(one.page.locator("#model")).to_have_text("homely")
    expect(one.page.locator("#dial-box")).to_be_hidden()
    one.page.click("#model")
    one.page.locator("#models").get_by_text("open", exact=True).click()
    one.page.keyboard.press("Escape")
    expect(one.page.locator("#dial-box")).to_be_visible()
    one.page.click("#open-device")
    panel = one.page.locator("#device")
    expect(panel).to_contain_text("open, not loaded")  # to look at it does not load it
    expect(panel).to_contain_text("Memory free")
    one.send("Hello")
    one.wait_end()
    expect(panel).to_contain_text("open, llama")
    expect(panel).to_contain_text("handed over below 0.25")
    one.page.click("#open-device")
    one.page.reload()
    expect(one.page.locator("#model")).to_have_text("open")
    file: FilePayload = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a fox"}
    with one.page.expect_request("**/tokenize") as asked:
        one.page.set_input_files("#attach-file", file)
    assert json.loads(str(asked.value.post_data))["model"] == "open"


def test_chats_are_found_renamed_exported_imported_and_deleted(
    local: Server, visit: Open, tmp_path: Path
) -> None:
    one = visit(local)
    one.send("Say hello to the moon")
    one.wait_end()
    text = one.answer
    one.page.get_by_role("button", name="Rename").click()
    one.page.fill("dialog input", "Moon")
    one.page.click("dialog button.primary")
    expect(one.page.locator("#title")).to_have_text("Moon")
    one.page.click("#export")
    with one.page.expect_download() as saved:
        one.page.get_by_role("button", name="JSON, to import again").click()
    saved.value.save_as(tmp_path / "chat.json")
    one.page.get_by_role("button", name="Delete Moon").click()
    one.page.click("dialog button.primary")
    expect(one.page.locator("#chats")).to_contain_text("No chats")
    one.page.set_input_files("#import-file", str(tmp_path / "chat.json"))
    one.page.get_by_role("button", name="Moon", exact=True).click()
    expect(one.page.locator(".message.answer .markdown")).to_have_text(text, use_inner_text=True)
    one.page.fill("#search", "no such words")
    assert "No chat has these words" in one.page.locator("#chats").inner_text()
    one.page.fill("#search", "the moon")
    assert one.page.locator(".chat-name").inner_text().startswith("Moon")
    (tmp_path / "bad.json").write_text('{"nodes": {"a": {"id": "a"}}}')
    one.page.set_input_files("#import-file", str(tmp_path / "bad.json"))
    expect(one.page.locator("#status")).to_contain_text("not an exported chat")


def test_a_key_is_asked_for_and_used(tmp_path: Path, visit: Open) -> None:
    server = Server(tmp_path, "--parallel", "2", "--api-key", "a-long-enough-key")
    try:
        one = visit(server)
        one.page.wait_for_selector("#set-key")
        assert "API key" in one.status
        # A wrong key looked as if nothing had happened, and the right one left the panel open.
        said = one.page.locator("#settings .warning")
        for key, why in (
            ("another-key", "This server wants a key."),
            ("a-long-enough-key", "This server does not know the key that was entered."),
        ):
            expect(said).to_have_text(why)
            one.page.fill("#set-key", key)
            one.page.get_by_role("button", name="Use this key").click()
        expect(one.page.locator("#settings")).to_be_hidden()
        expect(one.page.locator("#prompt")).to_be_focused()
        expect(one.page.locator("#model")).to_have_text("storyteller")
        one.send("Hello")
        one.wait_end()
        assert one.answer
        assert one.page.evaluate("localStorage.getItem('spillover-api-key')") is None
        refused = httpx.post(f"{server.url}/", json={"inputs": "Hello"})
        assert refused.status_code == 401
    finally:
        server.stop()


# --- the cloud ----------------------------------------------------------------------------------


def test_a_handoff_is_shown_where_it_happened(routed: Server, visit: Open, fake: Fake) -> None:
    fake.script(Act(rest=" Then a cloud came by. The end."))
    one = visit(routed)
    one.page.select_option("#dial", "auto")
    without_end(one)
    one.send(STORY)
    expect(one.page.locator(".answer .markdown")).to_contain_text(re.compile(r"[\s\S]{60}"))
    one.page.get_by_role("button", name="Ask the cloud").click()
    one.wait_end()
    seam = one.page.locator(".seam")
    assert "as you asked → fake-1 (cloud-model)" in seam.inner_text()
    assert one.answer.rstrip().endswith("The end.")
    assert "cloud: fake-1" in one.page.locator(".badge").inner_text()
    before = one.page.evaluate(
        "(() => { const r = document.createRange(); const s = document.querySelector('.seam');"
        "r.setStart(document.querySelector('.markdown'), 0); r.setEndBefore(s);"
        "return r.toString(); })()"
    )
    assert before
    one.page.click("#open-device")
    expect(one.page.locator(".handoffs")).to_contain_text("asked")


@pytest.mark.parametrize(("button", "leaves"), [("Yes, once", True), ("No", False)])
def test_nothing_leaves_before_the_card_is_answered(
    routed: Server, visit: Open, fake: Fake, button: str, leaves: bool
) -> None:
    fake.script(Act(rest=" Then a cloud came by. The end."))
    one = visit(routed)
    one.page.select_option("#dial", "ask")
    without_end(one)
    one.send(STORY)
    one.page.get_by_role("button", name="Ask the cloud").click()
    card = one.page.locator(".consent")
    card.wait_for()
    assert "May fake-1 (cloud-model) go on" in card.inner_text()
    assert "Leaves this device" in card.inner_text()
    assert re.search(r"\$0\.\d+ for the prompt, up to \$0\.\d+ with", card.inner_text())
    card.get_by_text("Show what would be sent").click()
    expect(card.locator(".preview")).to_contain_text(STORY)
    assert fake.requests == []
    one.page.get_by_role("button", name=button, exact=True).click()
    one.wait_end()
    assert bool(fake.requests) == leaves
    assert one.page.locator(".consent").count() == 0
    assert one.page.locator(".seam").count() == leaves


def test_an_image_is_offered_to_the_cloud(routed: Server, visit: Open, fake: Fake) -> None:
    fake.script(Act(text="It is red."))
    one = visit(routed)
    image: FilePayload = {"name": "red.png", "mimeType": "image/png", "buffer": png()}
    one.page.set_input_files("#attach-file", image)
    dialog = one.page.locator("#dialog")
    expect(dialog).to_contain_text("cannot see images")
    dialog.get_by_role("button", name="Ask a provider").click()
    expect(one.page.locator("#files")).to_contain_text("needs the cloud")
    assert one.page.locator("#dial").input_value() == "ask"
    one.send("What colour is it?")
    card = one.page.locator(".consent")
    expect(card).to_contain_text("1 image")
    assert "redaction does not look into them" in card.inner_text()
    assert fake.requests == []
    card.get_by_role("button", name="Yes, once").click()
    one.wait_end()
    assert one.answer.endswith("It is red.")
    assert "data:image/png;base64," in fake.requests[0].body


def test_the_device_panel_shows_doubt_and_its_limits(routed: Server, visit: Open) -> None:
    one = visit(routed)
    one.page.select_option("#dial", "auto")
    without_end(one)
    one.page.click("#open-device")
    one.send(STORY)
    panel = one.page.locator("#device")
    expect(panel).to_contain_text("handed over from 100 %")
    expect(panel).to_contain_text("handed over below 1.5")
    expect(panel.locator("svg .value").nth(1)).to_have_attribute("d", re.compile("^M"))
    one.page.route("**/v1/budget", lambda route: route.fulfill(status=503, body="{}"))
    expect(panel.locator(".spending")).to_have_text("The server says 503.")
    expect(panel).to_contain_text("KV cache")  # it hid all else
    one.page.keyboard.press("Escape")
    one.wait_end()


def test_a_dial_at_never_asks_nobody(routed: Server, visit: Open, fake: Fake) -> None:
    one = visit(routed)
    assert one.page.locator("#dial").input_value() == "never"
    without_end(one)
    one.send(STORY)
    one.page.wait_for_selector(".answer .markdown p")
    assert one.page.get_by_role("button", name="Ask the cloud").count() == 0
    one.page.press("#prompt", "Escape")
    one.wait_end()
    assert fake.requests == []


# --- shapes -------------------------------------------------------------------------------------


def test_a_phone_needs_no_sideways_scrolling(local: Server, visit: Open) -> None:
    one = visit(local, viewport={"width": 360, "height": 740})
    one.send("Hello")
    one.wait_end()
    width = one.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    one.page.click("#toggle-side")
    one.page.get_by_role("button", name="New chat").click()
    one.page.wait_for_selector(".welcome")


def test_the_keyboard_is_enough(local: Server, visit: Open) -> None:
    one = visit(local)
    expect(one.page.locator("#prompt")).to_be_focused()
    one.page.keyboard.type("Hello")
    one.page.keyboard.press("Enter")
    one.wait_end()
    seen = set()
    for _ in range(25):
        one.page.keyboard.press("Tab")
        seen.add(one.page.evaluate("document.activeElement.innerText || document.activeElement.id"))
    assert {"Regenerate", "Settings", "Device", "New chat"} <= seen


def test_what_goes_wrong_is_said(visit: Open, local: Server) -> None:
    one = visit(local)
    one.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, body='{"error": {"message": "the queue is full"}}'),
    )
    one.send("Hello")
    one.page.wait_for_selector(".notes .error", timeout=PATIENCE_MS)
    assert "The queue is full. The device is busy." in one.page.locator(".notes").inner_text()
