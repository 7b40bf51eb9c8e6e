"""Where the reader is, and what the page makes of what is pasted."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import FilePayload, Page, expect

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import Visit
from tests.edge_server.page.test_page import without_end

Open = Callable[..., Visit]


def wait_until(page: Page, condition: str) -> None:
    """Until *condition* holds in the page, whose policy forbids wait_for_function."""
    page.evaluate(
        f"(async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); }})()"
    )


def test_the_page_follows_an_answer_and_stays_where_the_reader_scrolled(
    local: Server, visit: Open
) -> None:
    one = visit(local, viewport={"width": 700, "height": 420})
    page = one.page
    without_end(one)
    one.send(STORY)
    wait_until(page, "log.scrollTop > 200")
    expect(page.locator("#to-end")).to_be_hidden()
    page.locator("#log").hover()
    page.mouse.wheel(0, -150)
    expect(page.locator("#to-end")).to_be_visible()
    top = page.evaluate("log.scrollTop")
    height = page.evaluate("log.scrollHeight")
    wait_until(page, f"log.scrollHeight > {height} + 100")
    assert abs(page.evaluate("log.scrollTop") - top) <= 2
    assert page.locator(".answer .badge").is_visible(), "who writes is always shown"
    page.click("#to-end")
    expect(page.locator("#to-end")).to_be_hidden()
    page.keyboard.press("Escape")
    one.wait_end()
    wait_until(page, "log.scrollHeight - log.scrollTop - log.clientHeight < 2")


def test_a_long_text_that_is_pasted_becomes_a_file(local: Server, visit: Open) -> None:
    one = visit(local)
    prompt = one.page.locator("#prompt")
    prompt.fill("short")
    prompt.press("Control+A")
    prompt.press("Control+X")
    prompt.press("Control+V")
    expect(prompt).to_have_value("short")
    prompt.fill("fox " * 2000)
    prompt.press("Control+A")
    prompt.press("Control+X")
    prompt.press("Control+V")
    expect(one.page.locator("#files")).to_contain_text("Pasted text 1.txt")
    expect(prompt).to_have_value("")


def test_words_without_end_and_wide_tables_stay_in_their_places(local: Server, visit: Open) -> None:
    one = visit(local, viewport={"width": 360, "height": 740})
    wide = "w" * 400
    # The button that removes a file was cut off with the end of the file's name.
    file: FilePayload = {"name": "w" * 90, "mimeType": "text/plain", "buffer": b"a fox"}
    one.page.set_input_files("#attach-file", file)
    one.page.locator("#files").get_by_text("tokens").wait_for()
    ends = """[...document.querySelectorAll('#files :is(li, button)')].map(
        (node) => node.getBoundingClientRect().right
    )"""
    chip, button = one.page.evaluate(ends)
    assert button <= chip
    one.page.get_by_role("button", name="Remove w").click()
    expect(one.page.locator("#files .chip")).to_have_count(0)
    table = f"| {wide} | b |\n|---|---|\n| 1 | 2 |"
    text = f"{wide}\n\n{table}\n\n```\n{wide}\n```\n\n`{wide}`\n\n> {wide}"
    one.answer_with({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]})
    one.send(wide)
    one.wait_end()
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert one.page.evaluate("log.scrollWidth <= log.clientWidth")
    expect(one.page.locator("#title")).to_have_text(f"{wide[:60]} …")


def test_text_from_right_to_left_is_set_so(local: Server, visit: Open) -> None:
    one = visit(local)
    text = "שלום עולם\n\n- אחת\n- שתיים\n\n```js\nlet a;\n```"
    one.answer_with({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]})
    one.send("שלום")
    one.wait_end()
    direction = "(node) => getComputedStyle(node).direction"
    assert one.page.locator(".answer ul").evaluate(direction) == "rtl"
    assert one.page.locator(".bubble").evaluate(direction) == "rtl"
    assert one.page.locator(".code pre").evaluate(direction) == "ltr"


def test_what_is_typed_of_a_key_stays_while_the_page_asks_again(local: Server, visit: Open) -> None:
    # The field used to be drawn anew every three seconds.
    one = visit(local)
    one.page.route(
        "**/v1/models",
        lambda route: route.fulfill(status=401, body='{"error": {"message": "no key"}}'),
    )
    one.page.reload()
    expect(one.page.locator("#set-key")).to_be_focused()
    one.page.keyboard.type("half a k")
    with one.page.expect_response("**/v1/models"):
        one.page.evaluate("dispatchEvent(new Event('online'))")
    one.page.keyboard.type("ey")
    expect(one.page.locator("#set-key")).to_have_value("half a key")
