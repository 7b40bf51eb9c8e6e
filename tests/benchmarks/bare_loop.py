"""The ceiling: llama.cpp's low-level decode loop with nothing around it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from spillover.runtime.backend import Rows
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.sampling import Sampling


def open_backend(path: Path, n_kv: int = 8192, n_threads: int = 2) -> LlamaBackend:
    """A context laid out as the engine lays it out."""
    config = LlamaConfig(
        n_kv=n_kv,
        n_seq=17,
        n_batch=512,
        n_threads=n_threads,
        n_gpu_layers=-1,
        kv_cache_type="f16",
        use_extra_bufts=True,
    )
    return LlamaBackend(path, config)


def tokens_per_second(
    backend: LlamaBackend, n_sequences: int, n_prompt: int, n_tokens: int
) -> tuple[float, float]:
    """(tokens per second in all, CPU seconds per token) of *n_sequences* decoded in step."""
    prompt = np.arange(300, 300 + n_prompt, dtype=np.int32)
    samplers = []
    for seq in range(n_sequences):
        backend.decode([Rows(seq, 0, prompt, True)])
        samplers.append(backend.sampler(Sampling(), seq, ignore_eos=True))
    last = [np.array([300], dtype=np.int32) for _ in range(n_sequences)]
    started, cpu = time.perf_counter(), time.process_time()
    for position in range(n_tokens):
        backend.decode([Rows(s, n_prompt + position, last[s], True) for s in range(n_sequences)])
        for s, sampler in enumerate(samplers):
            last[s][0] = sampler.sample(s, position)
            backend.token_bytes(int(last[s][0]))
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    for seq, sampler in enumerate(samplers):
        backend.keep(seq, 0)
        sampler.close()
    n = n_sequences * n_tokens
    return n / seconds, cpu / n
