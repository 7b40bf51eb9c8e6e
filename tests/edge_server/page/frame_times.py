"""Main-thread work per frame of the page: python -m tests.edge_server.page.frame_times

Chromium's own trace of two answers of 10,000 tokens at 100 tokens per second, the first in a new
chat, the second behind 200 messages. Prints a line of JSON for each. The tokens come from a stream
in the page, so that no model takes part; all from the parser of events to the layout is real.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.edge_server.conftest import Server
from tests.edge_server.page.conftest import Visit, launched

N_TOKENS, PER_S = 10_000, 100
FRAME_US = 1e6 / 60

FEED = """([nTokens, perS]) => {
    const real = window.fetch;
    const sentence = ["The ", "fox ", "had ", "**red", "** ", "fur", ", ", "`a", " = ", "1`", ". "];
    const rest = ["\\n\\n", "- one\\n", "- two\\n\\n", "```js\\nlet ", "x = ", "'fox';",
                  "\\n```\\n\\n"];
    const part = [...sentence, ...sentence, ...sentence, ...sentence, ...rest];
    window.fetch = (url, options) => {
        if (!String(url).endsWith("/v1/chat/completions")) return real(url, options);
        const encoder = new TextEncoder();
        let n = 0;
        const timings = {predicted_per_second: perS};
        const chunk = (delta, more) =>
            send({id: "c", choices: [{index: 0, delta, ...more}], timings});
        const send = (data) => encoder.encode(`data: ${JSON.stringify(data)}\\n\\n`);
        const body = new ReadableStream({start(controller) {
            const begun = performance.now();
            const timer = setInterval(() => {
                const due = Math.min(nTokens, (performance.now() - begun) * perS / 1000);
                for (; n < due; n += 1) {
                    controller.enqueue(chunk({content: part[n % part.length]}));
                }
                if (n < nTokens) return;
                clearInterval(timer);
                controller.enqueue(chunk({}, {finish_reason: "stop"}));
                controller.enqueue(encoder.encode("data: [DONE]\\n\\n"));
                controller.close();
            }, 1000 / perS);
        }});
        const headers = {"Content-Type": "text/event-stream"};
        return Promise.resolve(new Response(body, {headers}));
    };
}"""
"""Makes the page's next answers from text of all kinds."""


def long_chat(n_messages: int) -> str:
    """An exported chat, to import."""
    text = "A **fox** named Ruby.\n\n- red\n- quick\n\n```py\nprint('fox')\n```\n" * 4
    nodes: dict[str, Any] = {}
    for n in range(n_messages):
        role = "assistant" if n % 2 else "user"
        parent = f"m{n - 1}" if n else None
        nodes[f"m{n}"] = {"id": f"m{n}", "parent": parent, "role": role, "text": text, "at": n}
    return json.dumps({"title": "Long", "leaf": f"m{n_messages - 1}", "nodes": nodes})


def work_of(trace: bytes) -> list[float]:
    """Milliseconds of processor time that the page's main thread took in each 60th of a second."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    work: dict[tuple[int, int], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        thread = event["pid"], event["tid"]
        if event["name"] == "ThreadControllerImpl::RunTask" and thread in mains:
            work[thread][int(event["ts"] // FRAME_US)] += event.get("tdur", 0) / 1000
    busiest = max(work.values(), key=lambda frames: sum(frames.values()))
    return [busiest.get(n, 0.0) for n in range(min(busiest), max(busiest) + 1)]


def measure(browser: Browser, server: Server, n_messages: int) -> dict[str, Any]:
    one = Visit(browser, f"{server.url}/", viewport={"width": 1100, "height": 720})
    if n_messages:
        chat = {"name": "long.json", "mimeType": "application/json", "buffer": b""}
        chat["buffer"] = long_chat(n_messages).encode()
        one.page.set_input_files("#import-file", chat)  # type: ignore[arg-type]  # is one
        one.page.get_by_role("button", name="Long", exact=True).click()
        one.page.wait_for_selector(".message.answer")
    one.page.evaluate(FEED, [N_TOKENS, PER_S])
    browser.start_tracing(page=one.page, categories=["toplevel"])
    one.send("Go")
    one.page.wait_for_selector(".message.answer.running")
    one.page.wait_for_selector(
        "#messages > :last-child > .answer:last-child:not(.running)", timeout=300_000
    )
    work = sorted(work_of(browser.stop_tracing()))
    one.context.close()
    return {
        "n_messages": n_messages,
        "n_frames": len(work),
        "p50_ms": round(work[len(work) // 2], 2),
        "p95_ms": round(work[int(len(work) * 0.95)], 2),
        "p99_ms": round(work[int(len(work) * 0.99)], 2),
        "max_ms": round(work[-1], 2),
    }


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        contextlib.closing(launched(playwright)) as browser,
    ):
        server = Server(Path(folder))
        try:
            for n_messages in (0, 200):
                print(json.dumps(measure(browser, server, n_messages)), file=sys.stdout, flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
