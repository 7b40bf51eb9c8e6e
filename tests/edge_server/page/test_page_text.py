"""The page's readers: server-sent events, Markdown while it is written, and hostile texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import FilePayload, expect

from tests.edge_server.page.conftest import RENDER, Visit

EVENTS: list[tuple[str, list[tuple[str, str]]]] = [
    ("data: a\n\n", [("message", "a")]),
    ("data:a\ndata: b\n\n", [("message", "a\nb")]),
    ("\ufeffdata: a\r\n\r\ndata: b\r\r", [("message", "a"), ("message", "b")]),
    (": comment\ndata: a\n\n:\n\n", [("message", "a")]),
    ("event: x\ndata: a\n\ndata: b\n\n", [("x", "a"), ("message", "b")]),
    ("event: x\n\ndata: b\n\n", [("message", "b")]),
    ("data\n\ndata:\n\n", [("message", ""), ("message", "")]),
    ("data:  a\n\n", [("message", " a")]),
    ("data: a", []),
    ("data: ö𝄞\n\n", [("message", "ö𝄞")]),
    ("retry: 10\nnonsense: 1\ndata: a:b\n\n", [("message", "a:b")]),
]


@pytest.mark.parametrize(("text", "events"), EVENTS)
def test_events_are_read_however_they_are_cut(
    one: Visit, text: str, events: list[tuple[str, str]]
) -> None:
    found = one.page.evaluate(
        """async (text) => {
            const {SseParser} = await import("/page/sse.js");
            const all = [];
            for (const size of [1, 2, 3, 7, 1000]) {
                const parser = new SseParser();
                const events = [];
                for (let at = 0; at < text.length; at += size) {
                    events.push(...parser.feed(text.slice(at, at + size)));
                }
                all.push(events.map((event) => [event.type, event.data]));
            }
            return all;
        }""",
        text,
    )
    assert found == [[list(event) for event in events]] * 5


MARKDOWN = [
    ("One\ntwo\n\nthree", "<p>One<br>two</p><p>three</p>"),
    ("# Title\ntext", "<h2>Title</h2><p>text</p>"),
    ("- a\n- b\n\n1. c\n2. d", "<ul><li>a</li><li>b</li></ul><ol><li>c</li><li>d</li></ol>"),
    ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
    ("3. x", '<ol start="3"><li>x</li></ol>'),
    ("> a\n> b", "<blockquote><p>a<br>b</p></blockquote>"),
    ("**b** *i* ~~s~~ `c`", "<p><strong>b</strong> <em>i</em> <s>s</s> <code>c</code></p>"),
    ("a * b * c and 2*3*4", "<p>a * b * c and 2<em>3</em>4</p>"),
    ("snake_case_name", "<p>snake_case_name</p>"),
    (r"\*no\*", "<p>*no*</p>"),
    ("---", "<hr>"),
    ("$$\nx^2\n$$", '<pre class="math" tabindex="0">x^2</pre>'),
    ("<b>no html</b>", "<p>&lt;b&gt;no html&lt;/b&gt;</p>"),
]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(("text", "html"), MARKDOWN)
def test_markdown(one: Visit, text: str, html: str, size: int) -> None:
    assert one.page.evaluate(RENDER, [text, size]) == html


def test_tables_code_and_links(one: Visit) -> None:
    page = one.page
    text = (
        "| a | b |\n|---|--:|\n| 1 | `x|y` |\n\n"
        "```python\ndef f(x):  # comment\n    return 'text' + 12\n```\n\n"
        "[link](https://example.org/a_(b)) and https://example.org/x."
    )
    parts = [page.evaluate(RENDER, [text, size]) for size in (1, 3, 10_000)]
    assert parts[0] == parts[1] == parts[2]
    for piece in (
        '<th class="right">b</th>',
        '<span class="hl-keyword">def</span>',
        '<span class="hl-comment"># comment</span>',
        "<span class=\"hl-string\">'text'</span>",
        '<span class="hl-number">12</span>',
        'href="https://example.org/a_(b)"',
        'href="https://example.org/x"',
    ):
        assert piece in parts[0]


def test_code_is_drawn_line_by_line(one: Visit) -> None:
    kept = one.page.evaluate(
        """async () => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            const node = document.createElement("div");
            const view = new MarkdownView(node);
            view.append("```js\\nlet a = 1;\\nlet b");
            view.draw();
            const first = node.querySelector(".line");
            view.append(" = 2;\\nlet c = 3;\\n```\\nafter");
            view.draw();
            return [node.contains(first), node.querySelectorAll(".line").length, node.innerText];
        }"""
    )
    assert kept[:2] == [True, 3]
    assert kept[2].endswith("after")


def test_text_can_be_taken_back_and_a_mark_stays_in_its_sentence(one: Visit) -> None:
    found = one.page.evaluate(
        """async () => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            const node = document.createElement("div");
            const view = new MarkdownView(node);
            view.append("Once upon a");
            const mark = document.createElement("b");
            mark.append("SEAM");
            view.mark(mark);
            view.append(" time. **Bad** text");
            view.draw();
            const before = node.innerText;
            view.cut("Once upon a time.".length);
            return [before, node.innerText, node.querySelectorAll("b").length];
        }"""
    )
    assert found == ["Once upon aSEAM time. Bad text", "Once upon aSEAM time.", 1]


PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](  javascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/a)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://evil.example/1)",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:alert(1))",
    '![x](https://evil.example/"onload="alert(1))',
    '![x](x "onerror=alert(1)")',
    "![][r]\n\n[r]: https://evil.example/p.png",
    '<https://evil.example/" onmouseover=alert(1)>',
    "<javascript:alert(1)>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<link rel=stylesheet href=https://evil.example/a.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    "<form action=https://evil.example><input type=submit></form>",
    "<object data=https://evil.example></object>",
    "<embed src=https://evil.example>",
    "<video src=https://evil.example autoplay>",
    "<audio src=https://evil.example autoplay>",
    "<math href=javascript:alert(1)>x</math>",
    "<details open ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "```html\n<script>alert(1)</script>\n```",
    '```"onmouseover="alert(1)\nx\n```',
    "```<img src=x onerror=alert(1)>\nx\n```",
    "`<img src=x onerror=alert(1)>`",
    "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <script>alert(1)</script> | c |",
    "# <img src=x onerror=alert(1)>",
    "> <script>alert(1)</script>",
    "- <svg/onload=alert(1)>",
    "**<img src=x onerror=alert(1)>**",
    "[<img src=x onerror=alert(1)>](https://example.org)",
    '[x](https://example.org/"><img src=x onerror=alert(1)>)',
    "[x](https://example.org 'onclick=alert(1)')",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "\u202e<script>alert(1)</script>",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "<img src=`x`onerror=alert(1)>",
    "<img/src/onerror=alert(1)>",
    "<a href='https://example.org' onclick=alert(1)>x</a>",
    "<div style='background:url(https://evil.example)'>x</div>",
    "$$<img src=x onerror=alert(1)>$$",
    "\ue0000\ue001<script>alert(1)</script>",
    "\ue000999\ue001",
    "[a](mailto:a@example.org?body=<script>alert(1)</script>)",
    "http://evil.example/<script>alert(1)</script>",
    "https://evil.example/'onmouseover='alert(1)",
    "<xss style=animation-name:x onanimationstart=alert(1)>",
    "<button popovertarget=x onclick=alert(1)>x</button>",
    "<select><script>alert(1)</script></select>",
    "<textarea><img src=x onerror=alert(1)></textarea>",
    "<title><img src=x onerror=alert(1)></title>",
    "<frameset onload=alert(1)>",
    "<table background=https://evil.example>",
    "<picture><source srcset=https://evil.example><img></picture>",
    "<image href=https://evil.example>",
    "<use href=https://evil.example#x>",
    "<portal src=https://evil.example>",
    "<object type=text/html data='data:text/html,<script>alert(1)</script>'>",
    "<keygen autofocus onfocus=alert(1)>",
    "<isindex type=image src=1 onerror=alert(1)>",
    "constructor __proto__ toString",
    "```__proto__\nx\n```",
    "```constructor\nx\n```",
    "[__proto__](https://example.org)",
    "1. <img src=x onerror=alert(1)>\n2. **<svg onload=alert(1)>**",
]


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_hostile_texts_stay_text(one: Visit, size: int) -> None:
    assert len(PAYLOADS) >= 80
    names = "p br h2 ul ol li blockquote strong em s code pre div span table thead tbody tr th td a"
    allowed = set(f"{names} button hr".upper().split())
    found: list[dict[str, Any]] = one.page.evaluate(
        """async ([payloads, size]) => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            return payloads.map((text) => {
                const node = document.createElement("div");
                document.body.append(node);
                const view = new MarkdownView(node);
                for (let at = 0; at < text.length; at += size) {
                    view.append(text.slice(at, at + size));
                    view.draw();
                }
                view.draw();
                const all = [...node.querySelectorAll("*")];
                return {
                    names: all.map((one) => one.tagName),
                    attributes: all.flatMap((one) => one.getAttributeNames()),
                    targets: all.filter((one) => one.tagName === "A").map((one) => one.href),
                };
            });
        }""",
        [PAYLOADS, size],
    )
    for text, made in zip(PAYLOADS, found, strict=True):
        assert set(made["names"]) <= allowed, text
        assert not [name for name in made["attributes"] if name.startswith("on")], text
        assert "src" not in made["attributes"], text
        assert all(t.startswith(("https://", "http://", "mailto:")) for t in made["targets"]), text


def test_a_hostile_model_and_hostile_names_do_nothing(one: Visit) -> None:
    """The same through the whole page: the answer and its thoughts, tools, providers, a file, a
    title, models and errors."""
    evil, text = "<img src=x onerror=alert(1)>", "\n\n".join(PAYLOADS)
    cloud = {"origin": "cloud", "provider": evil, "model": evil}
    tool = {"index": 0, "function": {"name": evil, "arguments": evil}}
    handoff = {"type": "handoff", "seq": 1, "reason": evil, "from": cloud, "to": cloud}
    failed = {"type": "provider_failed", "provider": cloud, "message": evil}
    one.answer_with(
        {"id": evil, "loading": {"model": evil}},
        {"id": evil, "choices": [{"index": 0, "delta": {"reasoning_content": text}}]},
        {"id": evil, "choices": [{"index": 0, "delta": {"content": text}}]},
        {"id": evil, "spillover": handoff},
        {"id": evil, "spillover": failed},
        {"id": evil, "choices": [{"index": 0, "delta": {"tool_calls": [tool]}}]},
    )
    file: FilePayload = {"name": f"{evil}.txt", "mimeType": "text/plain", "buffer": b"x"}
    one.page.set_input_files("#attach-file", file)
    expect(one.page.locator("#files")).to_contain_text("onerror")
    one.send("<svg onload=alert(1)>")
    one.wait_end()
    expect(one.page.locator(".seam")).to_contain_text("onerror")
    expect(one.page.locator(".tool")).to_contain_text("onerror")
    one.page.unroute("**/v1/chat/completions")
    error = json.dumps({"error": {"message": evil}})
    one.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, body=error))
    one.send("again")
    one.page.wait_for_selector(".notes .error")
    assert "<img src=x onerror" in one.page.locator(".notes .error").inner_text()
    models = json.dumps({"data": [{"id": evil, "description": evil, "engine": evil}]})
    one.page.route("**/v1/models", lambda route: route.fulfill(body=models))
    one.page.click("#model")
    expect(one.page.locator("#models")).to_contain_text("onerror")
    assert one.page.locator("#app :is(img, script, svg, iframe, style, link)").count() == 0
