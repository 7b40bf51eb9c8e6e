"""Answers that repeat their prompt, and answers that do not, with speculation and without."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from spillover.runtime.events import Delta, Finished
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling

_CODE = '''def read_prices(path):
    """Prices by article, from a file with a line for each."""
    prices = {}
    with open(path) as file:
        for line in file:
            article, price = line.strip().split(";")
            prices[article] = float(price)
    return prices


def total(prices, basket):
    """The price of all articles in a basket."""
    result = 0.0
    for article, count in basket.items():
        result += prices[article] * count
    return result


def cheapest(prices):
    """The article with the lowest price."""
    best = None
    for article, price in prices.items():
        if best is None or price < prices[best]:
            best = article
    return best
'''
PROMPTS = {
    "code edit": f"Rename the variable `article` to `item` in this Python code. Write the whole "
    f"code again.\n\n```python\n{_CODE}```",
    "free text": "Tell me about the history of the bicycle, and why it became so popular.",
}
N_TOKENS = 200


class Figures(Protocol):
    def add(self, name: str, value: float) -> None: ...


class _Answer(Struct):
    ids: list[int]
    rate: float
    """Tokens per second, the first one not counted."""
    end: Finished


def run(models: Sequence[Path], figures: Figures, repeat: int) -> None:
    """Both prompts, greedy, off and on in turns; one model after the other."""
    for path in models:
        with contextlib.ExitStack() as stack:
            engines = {
                speculation: stack.enter_context(
                    LocalEngine(path, EngineOptions(n_ctx=2048, n_kv=4096, speculation=speculation))
                )
                for speculation in ("off", "auto")
            }
            for engine in engines.values():
                engine.wait_ready()
                time.sleep(25)  # measures its slices once
            for _ in range(repeat):
                for name, text in PROMPTS.items():
                    off, auto = (_answer(engine, text) for engine in engines.values())
                    _note(figures, f"speculation/{path.name}/{name}", off, auto)


def _note(figures: Figures, name: str, off: _Answer, auto: _Answer) -> None:
    figures.add(f"{name}/off tok/s", off.rate)
    figures.add(f"{name}/auto tok/s", auto.rate)
    figures.add(f"{name}/ratio", auto.rate / off.rate)
    times = auto.end.timings
    figures.add(f"{name}/checked tokens of {N_TOKENS}", times.n_drafted)
    figures.add(f"{name}/accepted tokens of {N_TOKENS}", times.n_accepted)
    pairs = enumerate(zip(off.ids, auto.ids, strict=False))
    figures.add(f"{name}/equal tokens", next((i for i, (a, b) in pairs if a != b), len(off.ids)))


def _answer(engine: LocalEngine, text: str) -> _Answer:
    asked = GenerationRequest(
        messages=(Message(role="user", content=text),),
        sampling=Sampling(temperature=0),
        max_tokens=N_TOKENS,
        ignore_eos=True,
        reuse_prefix=False,
    )
    ids: list[int] = []
    times: list[float] = []
    end: Finished | None = None
    for event in engine.stream(asked):
        if isinstance(event, Delta):
            times.append(time.perf_counter())
            ids += event.token_ids
        elif isinstance(event, Finished):
            end = event
    assert end is not None
    return _Answer(ids=ids, rate=(len(ids) - 1) / (times[-1] - times[0]), end=end)
