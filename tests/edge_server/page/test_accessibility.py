"""What axe finds on the page, and the keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import pytest
from playwright.sync_api import expect

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import Visit
from tests.edge_server.page.test_page import without_end
from tests.fakes.fake import Fake
from tests.fakes.script import Act

Open = Callable[..., Visit]
LETTER = "Write to my doctor, ada.fox@example.org: I would like to come on Monday at nine."
"""The owner's rule sends it to the cloud, so that the answer waits for the reply."""
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


def findings(one: Visit) -> list[str]:
    """The serious ones, in what is shown now."""
    one.page.evaluate(AXE)
    found = one.page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(routed: Server, visit: Open, fake: Fake, scheme: str) -> None:
    fake.script(Act(text="Then **a cloud** came by.\n\n- `one`\n\n```js\nlet a = 'b'; // c\n```"))
    one = visit(routed, color_scheme=scheme)
    one.page.click("#model")
    assert findings(one) == []
    one.page.keyboard.press("Escape")
    one.page.select_option("#dial", "ask")
    one.page.click("#open-settings")
    one.send(LETTER)
    card = one.page.locator(".consent")
    card.get_by_text("Show what would be sent").click()
    expect(card.locator(".preview")).to_contain_text("[EMAIL_1]")
    assert findings(one) == []
    card.get_by_role("button", name="Yes, once").click()
    one.wait_end()
    one.page.click("#open-device")
    expect(one.page.locator(".handoffs")).to_contain_text("rules")
    expect(one.page.locator(".taken-back")).to_have_count(0)  # it is fading
    assert findings(one) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_a_phone_in_dialogs_and_errors(
    local: Server, visit: Open, scheme: str
) -> None:
    one = visit(local, color_scheme=scheme, viewport={"width": 360, "height": 740})
    page = one.page
    assert findings(one) == []
    text = "> *Red*\n\n| a |\n|---|\n| b |"
    one.answer_with(
        {"id": "c", "loading": {"model": "other", "n_ahead": 1, "progress": 0.5}},
        {"id": "c", "prompt_progress": {"total": 90, "processed": 45}},
        {"id": "c", "choices": [{"index": 0, "delta": {"reasoning_content": "Well …"}}]},
        {
            "id": "c",
            "choices": [{"index": 0, "delta": {"content": text}}],
        },
    )
    one.send("Hello")
    one.wait_end()
    page.locator(".reasoning summary").click()
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, body="{}"))
    one.send("Again")
    page.wait_for_selector(".notes .error")
    assert findings(one) == []
    page.locator(".user").last.get_by_role("button", name="Edit").click()
    assert findings(one) == []
    page.keyboard.press("Escape")
    page.click("#toggle-side")
    page.fill("#search", "Red")
    assert findings(one) == []


def test_a_model_is_chosen_and_consent_given_with_the_keyboard(
    routed: Server, visit: Open, fake: Fake
) -> None:
    fake.script(Act(text="Then a cloud came by. The end."))
    one = visit(routed)
    press = one.page.keyboard.press
    one.page.locator("#model").focus()
    press("Enter")
    expect(one.page.locator("#models :checked")).to_be_focused()
    for name in ("storyteller-onnx", "Automatic"):
        press("ArrowDown")
        expect(one.page.locator("#model")).to_have_text(name)
    press("Escape")
    expect(one.page.locator("#models")).to_be_hidden()
    one.page.select_option("#dial", "ask")
    one.page.locator("#prompt").focus()
    one.page.keyboard.type(LETTER)
    press("Enter")
    one.page.get_by_role("button", name="Yes, once").focus()
    press("Enter")
    one.wait_end()
    assert one.page.locator(".seam").count() == 1


def test_one_panel_has_place_and_the_keyboard(local: Server, visit: Open) -> None:
    # Two cut the page into halves, and on a phone the focus was nowhere. Esc stopped the answer.
    one = visit(local)
    page, press = one.page, one.page.keyboard.press
    without_end(one)
    one.send(STORY)
    page.wait_for_selector(".answer .markdown p")
    page.locator("#open-device").focus()
    press("Enter")
    expect(page.locator("#device")).to_be_focused()
    page.click("#open-settings")
    expect(page.locator("aside:visible")).to_have_id("settings")
    expect(page.locator("#settings")).to_be_focused()
    press("Escape")
    expect(page.locator("aside:visible")).to_have_count(0)
    expect(page.locator("#open-settings")).to_be_focused()
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#toggle-side")
    page.click("#open-settings")
    expect(page.locator("#settings")).to_be_focused()
    press("Escape")
    expect(page.locator("#toggle-side")).to_be_focused()
    press("Enter")
    expect(page.locator("#new-chat")).to_be_focused()
    press("Escape")
    expect(page.locator("#toggle-side")).to_be_focused()
    expect(page.locator(".answer.running")).to_have_count(1)
    press("Escape")
    one.wait_end()
