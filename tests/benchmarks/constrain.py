"""python -m tests.benchmarks.constrain [--model PATH] [--repeat N]

What it costs to hold an answer to its form, per token, with a made-up vocabulary of 151,936
tokens, beside a decode step of a real shape (PATH, or a random 0.4B Llama). All in CPU time, that
of a step divided by its threads, so that what else runs does not count. Prints one line of JSON
for each figure.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs

from spillover.runtime.masked_logits import allowed_logits
from spillover.runtime.onnx.candidates import Candidates
from spillover.runtime.onnx.sampler import NumpySampler
from spillover.runtime.request import JsonObject, JsonSchema
from spillover.runtime.sampling import Sampling
from spillover.runtime.structured_output.factory import ConstraintFactory
from tests.benchmarks import bare_loop
from tests.benchmarks.random_gguf import quantized

N_VOCAB = 151_936
N_THREADS = 2
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "pattern": "^[a-z.]+@[a-z.]+$"},
        "tags": {"type": "array", "items": {"enum": ["kind", "brave", "small"]}},
        "home": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {
            "city": {"type": "string"}}, "required": ["city"]}]},
    },
    "required": ["name", "age", "mail", "tags", "home"],
    "additionalProperties": False,
}  # fmt: skip
ANSWERS: list[tuple[Any, str]] = [
    (
        JsonSchema(schema=PERSON),
        '{"name": "Ruby the quick fox", "age": 7, "mail": "ruby@forest.org", "tags": ["kind", '
        '"small"], "home": {"city": "A small town near the sea"}}',
    ),
    (
        JsonObject(),
        '{"title": "The lost map", "chapters": [{"n": 1, "text": "Once upon a time there was a '
        'fox."}, {"n": 2, "text": "She looked at the stars and the moon."}], "ok": true, '
        '"score": -12.5e3}',
    ),
]


def pieces() -> list[bytes]:
    """Single bytes, then made-up words, half of them with a blank in front."""
    draw = random.Random(0)
    found = dict.fromkeys(bytes([i]) for i in range(256))
    while len(found) < N_VOCAB - 2:
        kind = string.ascii_letters if draw.random() < 0.9 else string.printable
        word = "".join(draw.choice(kind) for _ in range(draw.randint(2, 9)))
        found[((" " if draw.random() < 0.5 else "") + word).encode()] = None
    return [*found, b"", b""]


def made_up_backend(tokens: list[bytes]) -> Any:
    """As much of a Backend as a vocabulary asks for; the last two tokens end an answer."""
    return SimpleNamespace(
        info=SimpleNamespace(n_vocab=N_VOCAB),
        token_bytes=tokens.__getitem__,
        control_text=lambda token: f"<|{token}|>",
        is_eog=lambda token: token >= N_VOCAB - 2,
        tokenize=lambda text, **_: np.array([], dtype=np.int32),
    )


def report(figure: str, values: list[float]) -> None:
    values = sorted(values)
    line = {"figure": figure, "median": round(median(values), 2), "min": round(values[0], 2),
            "p99": round(values[int(0.99 * (len(values) - 1))], 2), "max": round(values[-1], 2),
            "n": len(values)}  # fmt: skip
    print(json.dumps(line), flush=True)


def per_token(factory: ConstraintFactory, repeat: int) -> tuple[list[float], list[float]]:
    """µs of a token that was allowed, and µs of one that was refused: mask, apply, sample anew."""
    logits = np.random.default_rng(0).standard_normal(N_VOCAB, dtype=np.float32)
    sampler = NumpySampler(lambda _: logits, Sampling(), 1, n_ctx=4096)
    wrong = factory.vocabulary.pieces.index(b"\x00")
    allowed, refused = [], []
    for _ in range(repeat):
        for response_format, text in ANSWERS:
            constraint = factory.from_start(response_format)()
            for token in factory.vocabulary.tokenizer.greedy_tokenize(text):
                begun = time.thread_time()
                constraint.allows(wrong)
                left = Candidates(*allowed_logits(constraint, logits), False)
                sampler._choose(left, sampler._draws, 0)
                asked = time.thread_time()
                assert constraint.allows(token)
                constraint.accept(token)
                ended = time.thread_time()
                allowed.append(1e6 * (ended - asked))
                refused.append(1e6 * (ended - begun))
    return allowed, refused


def longest_pause(work: Callable[[], None]) -> float:
    """For how long another thread could not run while *work* was done: a stream's stall."""
    is_done = threading.Event()
    pauses: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not is_done.wait(0.001):
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    thread.start()
    work()
    is_done.set()
    thread.join()
    return max(pauses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    begun = time.perf_counter()
    factory = ConstraintFactory(made_up_backend(pieces()))
    _ = factory.vocabulary
    read = time.perf_counter()
    pause_s = longest_pause(factory.prepare)
    report("vocabulary: read, s", [read - begun])
    report("vocabulary: prepared, s", [time.perf_counter() - read])
    report("longest pause of another thread meanwhile, s", [pause_s])
    model = args.model or quantized(Path(platformdirs.user_cache_dir("spillover-bench")))
    backend = bare_loop.open_backend(model, n_threads=N_THREADS)
    steps, all_allowed, all_refused = [], [], []
    for _ in range(args.repeat):
        _, cpu_s = bare_loop.tokens_per_second(backend, 1, 64, 32)
        steps.append(1e3 * cpu_s / N_THREADS)
        allowed, refused = per_token(factory, 4)
        all_allowed += allowed
        all_refused += refused
    report(f"decode step of {model.name}, ms", steps)
    report("token that is allowed, us", all_allowed)
    report("token that is refused, us", all_refused)
    step_us = 1e3 * median(steps)
    report("every token refused, % of a step", [100 * t / step_us for t in all_refused])


if __name__ == "__main__":
    main()
