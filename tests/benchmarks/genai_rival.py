"""python -m tests.benchmarks.genai_rival FOLDER N_THREADS: onnxruntime-genai as a process that
takes lines of JSON and answers each with one. Times are seconds of the clock and of the CPU."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime_genai as og

MAX_LENGTH = 2048


class Rival:
    def __init__(self, folder: str, n_threads: int) -> None:
        config = og.Config(folder)
        config.clear_providers()
        options = {"intra_op_num_threads": n_threads}
        config.overlay(
            json.dumps(
                {
                    "model": {"decoder": {"session_options": options}},
                    "search": {"max_length": MAX_LENGTH},
                }
            )
        )
        self._model = og.Model(config)
        self._engine = og.Engine(self._model)

    def single(self, prompt: list[int], n_tokens: int) -> dict[str, Any]:
        """One stream by the Generator: seconds to read the prompt, and of each later token."""
        params = og.GeneratorParams(self._model)
        params.set_search_options(
            max_length=MAX_LENGTH, min_length=MAX_LENGTH, do_sample=True, top_k=40, top_p=0.95,
            temperature=0.8,
        )  # fmt: skip
        generator = og.Generator(self._model, params)
        began, cpu = time.perf_counter(), time.process_time()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        read_s, read_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(n_tokens - 1):
            generator.generate_next_token()
        return {
            "read_s": read_s, "read_cpu_s": read_cpu_s,
            "step_s": (time.perf_counter() - began) / (n_tokens - 1),
            "step_cpu_s": (time.process_time() - cpu) / (n_tokens - 1),
        }  # fmt: skip

    def streams(self, prompts: list[list[int]], n_tokens: list[int], late: int) -> dict[str, Any]:
        """Requests in the Engine; the last *late* ones come when all others have 8 tokens.

        Seconds of all, and from the last one's request to its first token.
        """
        counts: dict[int, int] = {}
        asked_s = first_s = 0.0
        buffer = self._engine.create_event_buffer(64)
        began, cpu = time.perf_counter(), time.process_time()
        n_early = len(prompts) - late
        orders = list(zip(prompts, n_tokens, strict=True))
        requests = [self._begin(*order) for order in orders[:n_early]]
        while self._engine.has_pending_requests():
            for event in self._engine.run(buffer):
                place = next((i for i, r in enumerate(requests) if r == event.request), None)
                if place is None or event.token is None:
                    continue
                counts[place] = counts.get(place, 0) + 1
                if place == len(prompts) - 1 and counts[place] == 1:
                    first_s = time.perf_counter() - asked_s
            if (
                len(requests) < len(prompts)
                and min((counts.get(i, 0) for i in range(n_early)), default=0) >= 8
            ):
                asked_s = time.perf_counter()
                requests += [self._begin(*order) for order in orders[n_early:]]
        wall, used = time.perf_counter() - began, time.process_time() - cpu
        for request in requests:
            request.close()
        return {"s": wall, "cpu_s": used, "n": sum(counts.values()), "first_s": first_s}

    def _begin(self, prompt: list[int], n_tokens: int) -> Any:
        request = self._engine.create_request()
        options = og.TurnOptions(request)
        options.set_max_generated_tokens(n_tokens)
        options.set_min_generated_tokens(n_tokens)
        options.set_do_sample(True)
        options.set_top_k(40)
        options.set_top_p(0.95)
        options.set_temperature(0.8)
        request.begin_turn(prompt, options)
        return request


def main() -> None:
    rival = Rival(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"version": og.__version__}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        result = getattr(rival, order.pop("do"))(**order)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
