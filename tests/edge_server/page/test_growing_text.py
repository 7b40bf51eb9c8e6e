"""Markdown while it is written: how it looks, and what the next word costs."""

from __future__ import annotations

import pytest

from tests.edge_server.page.conftest import RENDER, Visit


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        ("", "A sentence with **bold** words.\n\n- an item\n- another\n\n"),
        ("", "A paragraph that *never* ends, and goes on with `code`, again and again. "),
        ("```js\n", "let a = 'text'; // said\nlet b = 12;\n"),
        ("| a | b |\n|---|---|\n", "| **one** | two |\n| three | `four` |\n"),
        ("> ", "Said by **somebody** else, and quoted here.\n>\n> "),
        ("- An item.\n", "\n  With *paragraphs* of its own.\n\n  - and items\n"),
        ("1. An item.\n\n   ```py\n", "   print('fox')  # code in it\n"),
    ],
)
def test_long_answers_stay_smooth(one: Visit, begin: str, part: str) -> None:
    """The work for each piece does not grow with the answer, whatever it is made of: of a thousand
    drawings the last hundred make as few nodes as an early hundred."""
    made = one.page.evaluate(
        """async ([begin, part]) => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            const node = document.createElement("div");
            const view = new MarkdownView(node);
            const counts = [];
            let n = 0;
            const observer = new MutationObserver((all) => {
                for (const one of all) n += one.addedNodes.length;
            });
            observer.observe(node, {childList: true, subtree: true});
            view.append(begin);
            for (let i = 0; i < 1000; i += 1) {
                view.append(part);
                view.draw();
                for (const one of observer.takeRecords()) n += one.addedNodes.length;
                counts.push(n);
                n = 0;
            }
            const sum = (list) => list.reduce((a, b) => a + b, 0);
            return [sum(counts.slice(100, 200)), sum(counts.slice(-100))];
        }""",
        [begin, part],
    )
    assert made[1] <= made[0] * 1.1


GROWING = [
    "a | b\n---|---\n1 | 2\n3 | **4**\n\nafter",
    "- one\n  ```py\n  x = 1\n\n  y = 2\n  ```\n- two\n\n  more\n\n> - quoted\n> text\n\nend",
    "1. a\n   - b\n     - c *d*\n2. e\n\n- [x] done\n- [ ] not",
    "- lazy\n# no item",
    "text\n```js\nlet a; /* open\nclosed */ let b\n```\nmore\n~~~\n```\n~~~",
    "A **bold** `code` [link](https://example.org/a_(b)) snake_case *and* so on,  \nbroken. " * 12,
    "An *unpaired one, then many words. " + "words **bold** and_so_on " * 300,
    "a | b\n---\nThis used to stop the page.",
    "$$\nx\n$$\n# *Title*\n***\nend",
]


@pytest.mark.parametrize("text", GROWING)
def test_a_text_looks_the_same_however_it_grew(one: Visit, text: str) -> None:
    # Rows of a table without bars at their ends used to become paragraphs.
    whole = one.page.evaluate(RENDER, [text, len(text)])
    assert one.page.evaluate(RENDER, [text, 7]) == whole
    if len(text) < 1000:
        assert one.page.evaluate(RENDER, [text, 1]) == whole


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Some:\n", "- one\n- two", "<p>Some:</p><ul><li>#one</li><li>two</li></ul>"),
        ("- one\n", "- two", "<ul><li>one</li><li>#two</li></ul>"),
        ("One\n\n", "## Two\ntext", "<p>One</p><h3>#Two</h3><p>text</p>"),
        ("`one", "two`", "<p><code>one#two</code></p>"),
        ("**one ", "two**", "<p><strong>one #two</strong></p>"),
        ("[one](https://example.org/a", "b)", '<p><a href="https://example.org/ab">one</a>#</p>'),
    ],
)
def test_a_seam_at_the_beginning_of_a_block_leaves_it_what_it_is(
    one: Visit, before: str, after: str, shown: str
) -> None:
    # An item, a title or code behind a seam used to become a paragraph.
    found = one.page.evaluate(
        """async ([before, after]) => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            const node = document.createElement("div");
            const view = new MarkdownView(node);
            view.append(before);
            view.draw();
            view.mark(new Text("#"));
            view.draw();
            for (const letter of after) {
                view.append(letter);
                view.draw();
            }
            for (const link of node.querySelectorAll("a")) {
                for (const name of ["target", "rel", "title"]) link.removeAttribute(name);
            }
            return [...node.children].map((part) => part.innerHTML).join("");
        }""",
        [before, after],
    )
    assert found == shown


@pytest.mark.parametrize(
    ("before", "after"), [("Code:\n", "```js\na\n```\nend"), ("```js\na\n```", "\nend")]
)
def test_a_seam_at_the_fence_of_code_leaves_it_code(one: Visit, before: str, after: str) -> None:
    found = one.page.evaluate(
        """async ([before, after]) => {
            const {MarkdownView} = await import("/page/markdown/view.js");
            const node = document.createElement("div");
            const view = new MarkdownView(node);
            view.append(before);
            view.draw();
            view.mark(new Text("SEAM"));
            for (const letter of after) {
                view.append(letter);
                view.draw();
            }
            const code = node.querySelector(".code");
            const line = node.querySelector(".line").textContent;
            return [code.textContent.includes("SEAM"), line, node.lastChild.lastChild.textContent];
        }""",
        [before, after],
    )
    assert found == [True, "a", "end"]
