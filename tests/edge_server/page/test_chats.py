"""Chats in the browser: kept, shared by windows, exported and imported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.answers import STORY
from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import Visit
from tests.edge_server.page.test_page import without_end

Open = Callable[..., Visit]


def json_file(content: object) -> FilePayload:
    text = content if isinstance(content, str) else json.dumps(content)
    return {"name": "chats.json", "mimeType": "application/json", "buffer": text.encode()}


def message(name: str, parent: str | None, text: str, **fields: object) -> dict[str, Any]:
    role = "assistant" if name.startswith("a") else "user"
    return {"id": name, "parent": parent, "role": role, "text": text, "at": 1, **fields}


def chat_of(*nodes: dict[str, Any], title: str = "Imported", leaf: str = "") -> dict[str, Any]:
    by_id = {node["id"]: node for node in nodes}
    return {"title": title, "leaf": leaf or nodes[-1]["id"], "nodes": by_id}


def bubbles(page: Page, n: int) -> None:
    expect(page.locator(".bubble")).to_have_count(n)


def test_windows_on_one_chat_keep_what_both_wrote(local: Server, visit: Open) -> None:
    # The window that wrote last used to undo what the other had written.
    one = visit(local)
    one.send("Once upon a time")
    one.wait_end()
    other = one.open()
    other.locator(".chat-name").click()
    bubbles(other, 1)
    one.send("And then?")
    bubbles(other, 2)
    one.wait_end()
    expect(other.locator(".answer .markdown").last).to_have_text(one.answer, use_inner_text=True)
    other.fill("#prompt", "And in the end?")
    other.press("#prompt", "Enter")
    bubbles(one.page, 3)
    expect(other.locator("#stop")).to_be_hidden()
    expect(one.page.locator("#stop")).to_be_hidden()
    one.page.reload()
    bubbles(one.page, 3)
    expect(one.page.locator(".answer .markdown")).to_have_count(3)


def test_an_answer_can_be_watched_in_a_second_window(local: Server, visit: Open) -> None:
    one = visit(local)
    other = one.open()
    without_end(one)
    one.send(STORY)
    other.locator(".chat-name").click()
    one.wait_end()
    expect(other.locator(".answer")).to_have_attribute("aria-busy", "false")
    expect(other.locator(".answer .markdown")).to_have_text(one.answer, use_inner_text=True)


SLOW_STORAGE = """{
    const let_go = new Promise((done) => { window.letGo = done; });
    const set = (request, then) => request.addEventListener("complete", () => let_go.then(then));
    Object.defineProperty(IDBTransaction.prototype, "oncomplete", {
        set(then) { set(this, then); }
    });
    new BroadcastChannel("spillover-chats").onmessage = () => { window.hasHeard = true; };
}"""
"""What is read is given to the page once it is let go."""


def test_a_chat_that_another_window_begins_while_the_page_opens_is_listed(
    local: Server, visit: Open
) -> None:
    # It was missing until the next change of a chat.
    one = visit(local)
    other = one.context.new_page()
    other.add_init_script(SLOW_STORAGE)
    other.goto(one.url)
    one.send("Hello")
    other.wait_for_function("window.hasHeard")
    one.wait_end()
    other.evaluate("letGo()")
    expect(other.locator(".chat-name")).to_have_count(1)


HELD = """() => {
    const real = window.fetch;
    const encoder = new TextEncoder();
    const chunk = {id: "c", choices: [{index: 0, delta: {content: "Once"}}]};
    let end;
    window.fetch = (url, options) => {
        if (String(url).includes("/v1/streams/")) {
            end();
            return Promise.resolve(new Response(""));
        }
        if (!String(url).endsWith("/v1/chat/completions")) return real(url, options);
        const body = new ReadableStream({start(controller) {
            controller.enqueue(encoder.encode(`data: ${JSON.stringify(chunk)}\\n\\n`));
            end = () => controller.close();
        }});
        return Promise.resolve(new Response(body, {headers: {"X-Spillover-Stream": "s1"}}));
    };
}"""
"""The next answer goes on until it is stopped."""
KEPT_CHATS = """async () => {
    await new Promise(requestAnimationFrame);
    const db = await new Promise((done) => {
        indexedDB.open("spillover").onsuccess = ({target}) => done(target.result);
    });
    return new Promise((done) => {
        const keys = db.transaction("chats", "readwrite").objectStore("chats").getAllKeys();
        keys.onsuccess = () => { db.close(); done(keys.result.length); };
    });
}"""
"""How many chats are kept, once all that was to be written is."""


def test_a_chat_that_is_deleted_while_it_is_answered_stays_deleted(
    local: Server, visit: Open
) -> None:
    # The end of its answer used to bring it back.
    one = visit(local)
    other = one.open()
    one.page.evaluate(HELD)
    one.send(STORY)
    expect(one.page.locator(".answer .markdown")).to_have_text("Once")
    expect(other.locator(".chat-name")).to_have_count(1)
    one.page.get_by_role("button", name=f"Delete {STORY}").click()
    one.page.click("dialog button.primary")
    expect(one.page.locator(".welcome")).to_be_visible()
    expect(other.locator("#chats")).to_contain_text("No chats yet.")
    assert one.page.evaluate(KEPT_CHATS) == 0
    one.page.reload()
    expect(one.page.locator("#chats")).to_contain_text("No chats yet.")


def test_drafts_stay_with_their_chats(local: Server, visit: Open) -> None:
    one = visit(local)
    page, prompt = one.page, one.page.locator("#prompt")
    chat = chat_of(message("u1", None, "Hello"), title="Moon")
    page.set_input_files("#import-file", json_file(chat))
    page.get_by_role("button", name="Moon", exact=True).click()
    prompt.fill("Is it far?")
    page.reload()
    expect(prompt).to_have_value("Is it far?")
    page.click("#new-chat")
    expect(prompt).to_have_value("")
    prompt.fill("Something else")
    page.get_by_role("button", name="Moon", exact=True).click()
    expect(prompt).to_have_value("Is it far?")
    page.click("#new-chat")
    expect(prompt).to_have_value("Something else")


def text_file(name: str) -> FilePayload:
    return {"name": name, "mimeType": "text/plain", "buffer": b"a fox"}


def test_files_stay_with_the_chat_and_the_message_for_which_they_were_chosen(
    local: Server, visit: Open
) -> None:
    """Another chat, which might leave the device, took them along; editing an earlier message
    dropped them."""
    one = visit(local)
    page, chips = one.page, one.page.locator("#files .chip")
    first = message("u1", None, "Hello", files=[{"name": "old.txt", "text": "b"}])
    one.answer_with({"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi."}}]})
    page.set_input_files("#import-file", json_file(chat_of(first, title="Moon")))
    moon = page.get_by_role("button", name="Moon", exact=True)
    moon.click()
    page.set_input_files("#attach-file", text_file("next.txt"))
    expect(chips).to_contain_text("next.txt")
    page.click("#new-chat")
    expect(chips).to_have_count(0)
    moon.click()
    expect(chips).to_contain_text("next.txt")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Edit").click()
        page.fill("dialog textarea", "Hello again")
        page.click("dialog button.primary")
    sent = str(asked.value.post_data)
    assert "old.txt" in sent
    assert "next.txt" not in sent
    one.wait_end()
    expect(chips).to_have_count(1)
    expect(chips).to_contain_text("next.txt")


STRANGE = [
    chat_of(message("u1", "constructor", "Its parent is a word of the language")),
    chat_of(message("u1", "__proto__", "Another"), leaf="toString"),
    chat_of(message("a1", None, "Numbers", marks=5, tools={}, usage="x", state="running", run=3)),
    chat_of(message("u1", None, "Files", files=[{"name": 1}, 7, {"name": "a", "text": "b"}])),
    {"title": " \n", "leaf": 7, "nodes": {}},
]


def test_files_with_strange_chats_are_read_or_refused(local: Server, visit: Open) -> None:
    # A message whose parent was "constructor" used to break the page, and again at each reload.
    one = visit(local)
    page = one.page
    page.set_input_files("#import-file", json_file(STRANGE))
    expect(page.locator("#status")).to_have_text("Imported 5 chats.")
    for n in range(len(STRANGE)):
        page.locator(".chat-name").nth(n).click()
        expect(page.locator("#messages > *")).to_have_count(1)
    circle = chat_of(message("u1", "a1", "x"), message("a1", "u1", "y"))
    for bad in ("{", "[]", "7", "null", '{"title": 1}', json.dumps(circle)):
        page.set_input_files("#import-file", json_file(bad))
        expect(page.locator("#status")).to_have_text(re.compile("^The file (is|has)"))
    page.reload()
    expect(page.locator(".chat-name")).to_have_count(len(STRANGE))


def test_all_chats_are_exported_and_searched(local: Server, visit: Open) -> None:
    one = visit(local)
    page = one.page
    words = "The moon " + "is far away, and " * 20 + "the fox sleeps."
    chats = [
        chat_of(message("u1", None, words), title="Night"),
        chat_of(message("u1", None, "Hello"), title="Day"),
    ]
    page.set_input_files("#import-file", json_file(chats))
    expect(page.locator("#chats .age")).to_have_text("Today")
    page.fill("#search", "fox sleeps")
    expect(page.locator(".chat-name")).to_have_text(re.compile(r"^Night….*the fox sleeps\.…$"))
    page.fill("#search", "")
    page.click("#export")
    with page.expect_download() as saved:
        page.get_by_role("button", name="All chats").click()
    exported = json.loads(saved.value.path().read_text("utf-8"))
    assert {chat["title"] for chat in exported} == {"Night", "Day"}
    page.set_input_files("#import-file", json_file(exported))
    expect(page.locator(".chat-name")).to_have_count(4)


NOTHING_ALLOWED = """
for (const name of ["indexedDB", "localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, {get() { throw new DOMException("no", "SecurityError"); }});
}
Object.defineProperty(navigator, "clipboard", {value: undefined});
"""


def test_a_browser_that_keeps_nothing_is_told_and_works(local: Server, visit: Open) -> None:
    one = visit(local, script=NOTHING_ALLOWED)
    expect(one.page.locator("#not-kept")).to_be_visible()
    one.send("Hello")
    one.wait_end()
    one.page.get_by_role("button", name="Copy the answer").click()
    expect(one.page.get_by_role("button", name="Copy the answer")).to_have_text("Copied")
    one.page.click("#new-chat")
    one.page.locator(".chat-name").click()
    bubbles(one.page, 1)


STORAGE_FULL = """{
    const put = IDBObjectStore.prototype.put;
    const isFull = () => sessionStorage.getItem("full") !== "no";
    IDBObjectStore.prototype.put = function (value) {
        const request = put.call(this, value);
        const {transaction} = this;
        if (isFull()) queueMicrotask(() => { try { transaction.abort(); } catch { /* it is */ } });
        return request;
    };
}"""
"""Each write is refused, as late as can be, unless sessionStorage says that there is space."""


def fill_storage(page: Page, full: str) -> None:
    page.evaluate("(full) => sessionStorage.setItem('full', full)", full)


def test_what_a_full_storage_refused_is_kept_once_there_is_space(
    local: Server, visit: Open
) -> None:
    # A new chat whose first write failed was taken for one that another window had deleted.
    one = visit(local, script=STORAGE_FULL)
    page, problem = one.page, one.page.locator("#not-kept")
    fill_storage(page, "no")
    old = [chat_of(message("u1", None, "Hello"), title=title) for title in ("Old", "Known")]
    page.set_input_files("#import-file", json_file(old))
    expect(page.locator(".chat-name")).to_have_count(2)
    page.get_by_role("button", name="Known", exact=True).click()
    fill_storage(page, "yes")
    one.send("In a known chat")
    one.wait_end()
    expect(problem).to_contain_text("could not keep “Known”")
    page.click("#new-chat")
    one.send("In a new chat")
    one.wait_end()
    expect(problem).to_contain_text("could not keep 2 chats")
    page.get_by_role("button", name="Known", exact=True).click()
    expect(page.locator(".bubble").last).to_have_text("In a known chat")
    fill_storage(page, "no")
    page.get_by_role("button", name="Delete Old").click()
    page.click("dialog button.primary")
    expect(problem).to_be_hidden()
    page.reload()
    expect(page.locator(".chat-name")).to_have_count(2)
    for name, n in (("Known", 2), ("In a new chat", 1)):
        page.get_by_role("button", name=name, exact=True).click()
        bubbles(page, n)
        expect(page.locator(".answer")).to_have_count(1)


def test_a_draft_that_fits_into_the_storage_again_is_the_one_that_is_shown(
    local: Server, visit: Open
) -> None:
    # The longer one, which the storage had refused, came back.
    one = visit(local)
    page, prompt = one.page, one.page.locator("#prompt")
    page.evaluate(
        """() => {
            const set = Storage.prototype.setItem;
            Storage.prototype.setItem = function (key, value) {
                if (value === "too long") throw new DOMException("full", "QuotaExceededError");
                set.call(this, key, value);
            };
        }"""
    )
    prompt.fill("too long")
    prompt.fill("short")
    page.set_input_files("#import-file", json_file(chat_of(message("u1", None, "Hello"))))
    page.locator(".chat-name").click()
    expect(prompt).to_have_value("")
    page.click("#new-chat")
    expect(prompt).to_have_value("short")


def test_the_page_works_beside_one_of_an_older_version(local: Server, visit: Open) -> None:
    # It waited without a word until the other tab was closed.
    one = visit(local)
    one.page.goto(f"{local.url}/page/icon.svg")
    one.page.evaluate(
        """() => new Promise((done) => {
            indexedDB.deleteDatabase("spillover").onsuccess = () => {
                const request = indexedDB.open("spillover", 1);
                request.onupgradeneeded = () =>
                    request.result.createObjectStore("chats", {keyPath: "id"});
                request.onsuccess = () => { window.held = request.result; done(); };
            };
        })"""
    )
    other = one.open()
    expect(other.locator("#not-kept")).to_contain_text("close that tab, then load this page anew")
    other.fill("#prompt", "Hello")
    other.press("#prompt", "Enter")
    expect(other.locator(".answer:not(.running)")).to_have_count(1)
    one.page.close()
    other.reload()
    expect(other.locator("#not-kept")).to_be_hidden()


def test_a_page_says_when_a_newer_version_of_it_takes_the_chats(local: Server, visit: Open) -> None:
    one = visit(local)
    other = one.context.new_page()
    other.goto(f"{local.url}/page/icon.svg")
    other.evaluate(
        """() => new Promise((done) => {
            indexedDB.open("spillover", 99).onsuccess = ({target}) => {
                target.result.close();
                done();
            };
        })"""
    )
    expect(one.page.locator("#not-kept")).to_contain_text("A newer version of this page")


def test_a_chat_that_cannot_be_read_is_not_taken_for_deleted(local: Server, visit: Open) -> None:
    # Its answer was cancelled at the server.
    one = visit(local)
    one.page.evaluate(HELD)
    one.send(STORY)
    expect(one.page.locator(".answer .markdown")).to_have_text("Once")
    other = one.open()
    expect(other.locator(".chat-name")).to_have_count(1)
    one.page.evaluate(
        """() => {
            const get = IDBObjectStore.prototype.get;
            IDBObjectStore.prototype.get = function () {
                IDBObjectStore.prototype.get = get;
                throw new DOMException("broken", "UnknownError");
            };
        }"""
    )
    for title in ("Moon", "Sun"):
        other.get_by_role("button", name="Rename").click()
        other.fill("dialog input", title)
        other.click("dialog button.primary")
    expect(one.page.locator("#title")).to_have_text("Sun")
    expect(one.page.locator("#stop")).to_be_visible()
    expect(one.page.locator(".answer")).to_have_attribute("aria-busy", "true")


def test_chats_of_the_first_format_are_kept(local: Server, visit: Open) -> None:
    one = visit(local)
    one.page.goto(f"{local.url}/page/icon.svg")
    one.page.evaluate(
        """(chat) => new Promise((done) => {
            indexedDB.deleteDatabase("spillover").onsuccess = () => {
                const request = indexedDB.open("spillover", 1);
                request.onupgradeneeded = () =>
                    request.result.createObjectStore("chats", {keyPath: "id"}).put(chat);
                request.onsuccess = () => { request.result.close(); done(); };
            };
        })""",
        {"id": "c1", "updated": 1, "dial": "never", **chat_of(message("u1", None, "Hello"))},
    )
    one.page.goto(f"{local.url}/")
    one.page.locator(".chat-name").click()
    expect(one.page.locator(".bubble")).to_have_text("Hello")


@pytest.mark.parametrize("dial", ["never", "ask"])
def test_what_is_sent_before_the_models_are_known_keeps_the_users_choice(
    local: Server, visit: Open, dial: str
) -> None:
    # The dial used to be left out then, so that the owner's setting alone counted.
    one = visit(local)
    one.page.evaluate(
        "(dial) => localStorage.setItem('spillover-settings', JSON.stringify({dial}))", dial
    )
    expect(one.page.locator("#model")).not_to_be_empty()  # so the first question is not held, too
    held: list[Any] = []
    one.page.route("**/v1/models", lambda route: held.append(route))
    one.page.reload()
    one.send("Hello")
    expect(one.page.locator(".stage")).to_have_text("Sending")
    with one.page.expect_request("**/v1/chat/completions") as sent:
        held[0].continue_()
    body = json.loads(str(sent.value.post_data))
    assert body["spillover"]["fallback"] == dial
    assert body["model"] == "storyteller"
    one.wait_end()
