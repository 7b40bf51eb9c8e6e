"""Measures how fast two loaded engines are, in turns, so that both meet the same load."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from spillover.quantize.conversion.errors import NotNow
from spillover.runtime.backend import Backend, Rows, Tokens
from spillover.runtime.conversions.record import Comparison, EngineRates
from spillover.runtime.machine.device import SLACK_CORES, OurCores

N_ROUNDS = 3
LONGEST_S = 60.0
"""After this time no other round begins."""
_N_PROMPT, _N_STEPS, _N_FIRST = 256, 12, 32
_DEPTH = 64
"""Tokens that four sequences have read before they are measured together."""
_LONGEST_MEASURE_S = 4.0
_LONGEST_ALONE_S = 20.0
"""As LONGEST_S, for an engine that is not compared with another one."""


def compare_rates(
    llama: Backend, onnx: Backend, clock: Callable[[], float] = time.perf_counter
) -> Comparison:
    """The best round of each; noise only slows down. Both contexts are empty afterwards.

    Raises NotNow if other programs took the cores in every round: an engine whose threads wait for
    each other actively loses more by that than the other one.
    """
    cores, needed = OurCores(), llama.info.n_threads - SLACK_CORES
    began, rounds = clock(), list[list[EngineRates]]()
    while len(rounds) < N_ROUNDS:
        cores.free()
        both = [_round(backend, clock) for backend in (llama, onnx)]
        if cores.free() >= needed:
            rounds.append(both)
        if clock() - began > LONGEST_S:
            break
    if not rounds:
        raise NotNow(
            "other programs took the processor while the engines were measured: `spillover "
            "engines` measures again when the device is idle"
        )
    of_llama, of_onnx = ([pair[i] for pair in rounds] for i in (0, 1))
    return Comparison(llama=_best(of_llama), onnx=_best(of_onnx))


def measure_rates(
    backend: Backend, clock: Callable[[], float] = time.perf_counter
) -> tuple[EngineRates, bool]:
    """The best of some rounds, and whether other programs took the cores in all of them: then more
    rounds are tried for a while. The context is empty afterwards."""
    cores, needed = OurCores(), backend.info.n_threads - SLACK_CORES
    began, rounds, n_quiet = clock(), list[EngineRates](), 0
    while not rounds or (n_quiet < N_ROUNDS and clock() - began < _LONGEST_ALONE_S):
        cores.free()
        rounds.append(_round(backend, clock))
        n_quiet += cores.free() >= needed
    return _best(rounds), n_quiet == 0


def _best(rates: list[EngineRates]) -> EngineRates:
    return EngineRates(
        prefill=max(rate.prefill for rate in rates),
        decode_1=max(rate.decode_1 for rate in rates),
        decode_4=max(rate.decode_4 for rate in rates),
    )


def _round(backend: Backend, clock: Callable[[], float]) -> EngineRates:
    n_seq = min(4, backend.info.n_seq)
    n_prompt = min(_N_PROMPT, backend.info.n_batch, backend.info.n_kv // 8)
    tokens: Tokens = np.arange(n_prompt, dtype=np.int32) % backend.info.n_vocab
    try:
        # The other engine's threads may still spin; and a slow device reads only this.
        first = tokens[:_N_FIRST]
        prefill = len(first) / _read_s(backend, first, clock)
        if n_prompt / prefill < _LONGEST_MEASURE_S:
            prefill = n_prompt / _read_s(backend, tokens, clock)
        decode_1 = 1 / _step_s(backend, 1, tokens, clock)
        decode_4 = n_seq / _step_s(backend, n_seq, tokens, clock)
    finally:
        for seq in range(n_seq):
            backend.keep(seq, 0)
    return EngineRates(prefill=prefill, decode_1=decode_1, decode_4=decode_4)


def _read_s(backend: Backend, tokens: Tokens, clock: Callable[[], float]) -> float:
    """The seconds for reading *tokens* as a prompt."""
    backend.keep(0, 0)
    began = clock()
    backend.decode([Rows(0, 0, tokens, True)])
    backend.logits(0)  # waits for a device that computes asynchronously
    return max(clock() - began, 1e-7)


def _step_s(backend: Backend, n_seq: int, tokens: Tokens, clock: Callable[[], float]) -> float:
    """The median time of a step of *n_seq* sequences, in seconds."""
    depth, found = min(_DEPTH, len(tokens)), list[float]()
    for seq in range(n_seq):
        backend.keep(seq, 0)
        backend.decode([Rows(seq, 0, tokens[:depth], True)])
    for step in range(_N_STEPS):
        began = clock()
        backend.decode([Rows(seq, depth + step, tokens[:1], True) for seq in range(n_seq)])
        backend.logits(0)
        found.append(clock() - began)
        if sum(found) > _LONGEST_MEASURE_S and len(found) >= 3:
            break
    return max(median(found), 1e-7)
