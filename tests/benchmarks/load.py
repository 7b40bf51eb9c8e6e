"""Clients for the benchmarks: streams that note when each token came."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from msgspec import Struct


class Stream(Struct):
    """When a stream was asked for, and when each of its deltas came (perf_counter seconds)."""

    asked: float
    times: list[float]

    @property
    def first_s(self) -> float:
        return self.times[0] - self.asked


def prompt_of(n_tokens: int, salt: int) -> list[int]:
    """Token ids that no other prompt shares a beginning with."""
    return [300 + (salt * 7919 + i * 31) % 3000 for i in range(n_tokens)]


_WORDS = (
    "the little dog ran to a big red house and saw two birds in an old tree by the water where "
    "her friend had lost his blue hat on one sunny day when they all went out to play again"
)


def text_of(n_words: int, salt: int) -> str:
    """A text that no other one shares a beginning with, of one to two tokens for each word."""
    words = _WORDS.split()
    chosen = (words[(salt * 7919 + i * (31 + salt % 7)) % len(words)] for i in range(n_words))
    return f"{salt} " + " ".join(chosen)


async def stream(
    port: int,
    prompt: str | Sequence[int],
    n_tokens: int,
    result: Stream | None = None,
    **extra: Any,
) -> Stream:
    """One streamed completion; *result* fills while it runs."""
    body = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": n_tokens,
        "stream": True,
        "ignore_eos": True,
        "temperature": 0.8,
        "cache_prompt": False,
        **extra,
    }
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    result = result or Stream(0.0, [])
    result.asked = time.perf_counter()
    writer.write(head.encode() + content)
    with contextlib.closing(writer):
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                break
            if line.startswith(b"data: {") and b'"finish_reason":null' in line.replace(b" ", b""):
                result.times.append(time.perf_counter())
    if not result.times:
        raise RuntimeError(f"no tokens came from port {port}")
    return result


async def throughput(port: int, prompts: Sequence[str | Sequence[int]], n_tokens: int) -> float:
    """Tokens per second in all, from the first request to the last token."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(stream(port, prompt, n_tokens) for prompt in prompts))
    ended = max(s.times[-1] for s in streams)
    # Counted, not assumed: a server may end a stream early.
    return sum(len(s.times) for s in streams) / (ended - started)


async def newcomer(port: int, salt: int, n_prompt: int, n_running: int) -> dict[str, float]:
    """*n_running* streams while a prompt of *n_prompt* tokens arrives: their median step before,
    their largest gap until the newcomer's first token, and his time to it (seconds)."""
    results = [Stream(0.0, []) for _ in range(n_running)]
    running = [
        asyncio.create_task(stream(port, prompt_of(60, salt + i), 2000, result))
        for i, result in enumerate(results)
    ]
    try:
        while any(len(result.times) < 40 for result in results):
            await asyncio.sleep(0.05)
        arrived = time.perf_counter()
        late = await stream(port, prompt_of(n_prompt, salt + 99), 8)
        for task, result in zip(running, results, strict=True):
            if task.done() and result.times[-1] < late.times[0]:
                n, error = len(result.times), task.exception()
                raise RuntimeError(
                    f"a running stream ended after {n} tokens, before the newcomer's first one"
                ) from error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    quiet = [b - a for s in results for a, b in itertools.pairwise(s.times) if b < arrived]
    gaps = [
        b - a
        for s in results
        for a, b in itertools.pairwise(s.times)
        if b > arrived and a < late.times[0]
    ]
    return {"quiet_s": median(quiet), "largest_gap_s": max(gaps), "first_token_s": late.first_s}
