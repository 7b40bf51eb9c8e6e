"""The dial of a chat, "Cloud: never, ask me, automatic", while an answer is written."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import Visit
from tests.edge_server.page.test_chats import HELD
from tests.edge_server.page.test_page import without_end
from tests.fakes.fake import Fake
from tests.fakes.script import Act

Open = Callable[..., Visit]
LONG = Act(rest=" Then a cloud came by, and it had much to tell.", hold_after_chunks=5)


def steering(page: Page, name: str) -> None:
    """Expect this button, or with an empty name none."""
    buttons = page.locator("#steering button:visible")
    if name:
        expect(buttons.filter(has_text=name)).to_be_visible()
    else:
        expect(buttons).to_have_count(0)


def test_never_takes_back_what_a_provider_is_writing(
    routed: Server, visit: Open, fake: Fake
) -> None:
    # The answer stayed with the provider, and "Keep it here" was gone.
    fake.script(LONG)
    one = visit(routed)
    page = one.page
    page.select_option("#dial", "auto")
    without_end(one)
    one.send(STORY)
    page.get_by_role("button", name="Ask the cloud").click()
    expect(page.locator(".seam.cloud")).to_have_count(1)
    steering(page, "Keep it here")
    page.select_option("#dial", "never")
    expect(page.locator(".seam.local")).to_contain_text("back to this device")
    steering(page, "")
    page.press("#prompt", "Escape")
    one.wait_end()
    assert len(fake.requests) == 1


def test_never_holds_for_an_answer_whose_request_is_on_its_way(routed: Server, visit: Open) -> None:
    one = visit(routed)
    held: list[Route] = []
    one.page.route("**/v1/chat/completions", lambda route: held.append(route))
    one.page.select_option("#dial", "auto")
    with one.page.expect_request("**/v1/chat/completions"):
        one.send(STORY)
    one.page.select_option("#dial", "never")
    with one.page.expect_response("**/v1/handoffs") as kept:
        body = json.loads(str(held[0].request.post_data)) | {"ignore_eos": True, "max_tokens": 900}
        held[0].continue_(post_data=json.dumps(body))
    assert kept.value.status == 202
    assert json.loads(str(kept.value.request.post_data))["to"] == "local"
    steering(one.page, "")
    one.page.press("#prompt", "Escape")
    one.wait_end()


def test_never_in_one_window_holds_in_all(routed: Server, visit: Open) -> None:
    # The window that had asked kept its own choice, and put it back at the answer's end.
    one = visit(routed)
    one.page.select_option("#dial", "auto")
    one.page.evaluate(HELD)
    one.send(STORY)
    expect(one.page.locator(".answer .markdown")).to_have_text("Once")
    other = one.open()
    other.locator(".chat-name").click()
    expect(other.locator(".bubble")).to_have_count(1)
    expect(other.locator("#dial")).to_have_value("auto")
    with one.page.expect_request("**/v1/handoffs") as kept:
        other.select_option("#dial", "never")
    assert json.loads(str(kept.value.post_data)) == {"id": "c", "to": "local"}
    expect(one.page.locator("#dial")).to_have_value("never")
    one.page.press("#prompt", "Escape")
    one.wait_end()
    one.page.reload()
    expect(one.page.locator("#dial")).to_have_value("never")


def test_the_dial_is_shown_once_somebody_listens_to_it(routed: Server, visit: Open) -> None:
    # What was chosen before the script ran, such as "never", was silently put back.
    page = visit(routed).context.new_page()
    held: list[Route] = []
    page.route("**/page/app.js", lambda route: held.append(route))
    page.goto(f"{routed.url}/", wait_until="commit")
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator("#dial")).to_be_hidden()
    held[0].continue_()
    expect(page.locator("#dial")).to_be_visible()


def test_a_phone_shows_the_whole_of_what_steers_an_answer(routed: Server, visit: Open) -> None:
    # Beside a stage of two lines it stood half outside.
    one = visit(routed, viewport={"width": 360, "height": 740})
    one.page.select_option("#dial", "auto")
    one.page.evaluate(HELD)
    one.send(STORY)
    steering(one.page, "Keep it here")
    right = one.page.evaluate(
        """() => {
            document.querySelector("#status").textContent = "Reading the prompt ".repeat(4);
            const rights = [...document.querySelectorAll("#steering button")].map(
                (button) => button.getBoundingClientRect().right
            );
            return Math.max(...rights);
        }"""
    )
    assert 0 < right <= 360
    one.page.press("#prompt", "Escape")
    one.wait_end()


def test_the_card_counts_what_would_be_sent_at_the_moment_it_is_shown(
    routed: Server, visit: Open
) -> None:
    # The number of private texts stayed that of the moment when the card came.
    one = visit(routed)

    def more(route: Route) -> None:
        if route.request.method == "POST":
            route.continue_()
            return
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"privacy": {"redacted": 7}})

    one.page.route("**/v1/consents/*", more)
    one.page.select_option("#dial", "ask")
    without_end(one)
    one.send("Write to my doctor, ada.fox@example.org.")
    card = one.page.locator(".consent")
    expect(card).to_contain_text("with 1 private text replaced")
    card.get_by_text("Show what would be sent").click()
    expect(card).to_contain_text("1 message, with 7 private texts replaced")  # no more goes along
    card.get_by_role("button", name="No", exact=True).click()
    one.page.press("#prompt", "Escape")
    one.wait_end()
