"""What the prefix cache saves: seconds until the first logits of a prompt, with and without it.

The logits are compared with those of a cold read: a prefix that comes back must not change them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spillover.runtime.backend import Backend, Logits, Rows, Tokens
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.kv_cache.cache import KvCache, KvCacheOptions
from spillover.runtime.kv_cache.prefix_disk import PrefixDiskOptions
from spillover.runtime.onnx.runners.logits import divergence
from spillover.runtime.options import EngineOptions
from tests.loading import load

if TYPE_CHECKING:
    from tests.benchmarks.__main__ import Figures

LENGTHS = (64, 512, 1024, 4096)
N_NEW = 16
"""Tokens behind the prefix, which are always read."""


class _Device:
    """A backend whose KV cache starts anew, with the files of the time before."""

    def __init__(self, backend: Backend, model: Path, folder: Path) -> None:
        self._backend = backend
        saver = backend.saver
        assert saver is not None
        disk = PrefixDiskOptions(
            cache_dir=folder,
            digest=ModelDigest([model], folder),
            facts=(backend.info.library, saver.layout),
            max_bytes=8 << 30,
            keeps="all",
        )
        self._options = KvCacheOptions(n_kept=0, saved_bytes=8 << 30, disk=disk)
        self._woken = threading.Event()

    def start(self) -> KvCache:
        for seq in range(self._backend.info.n_seq):
            self._backend.keep(seq, 0)
        return KvCache(self._backend, self._options, wake=self._woken.set)

    def first_logits(self, kv: KvCache, prompt: Tokens, *, reuse: bool) -> tuple[float, Logits]:
        """Seconds until they are there, and the logits."""
        started = time.perf_counter()
        while reuse and kv.fetch(prompt, []):
            self.wait(kv)
        placed = kv.place(prompt, 1, [], reuse=reuse)
        assert placed is not None
        seq, n_held = placed
        for first in range(n_held, len(prompt), self._backend.info.n_batch):
            part = prompt[first : first + self._backend.info.n_batch]
            is_last = first + len(part) == len(prompt)
            self._backend.decode([Rows(seq, first, part, is_last)])
            kv.extend(seq, len(part))
        logits = self._backend.logits(0).copy()
        seconds = time.perf_counter() - started
        kv.release(seq, prompt)
        return seconds, logits

    def wait(self, kv: KvCache) -> None:
        self._woken.wait()
        self._woken.clear()
        kv.take_news()


def run(model: Path, figures: Figures, repeat: int) -> None:
    """A prompt that is read, that comes from memory, and that comes from disk after a restart."""
    options = EngineOptions(n_ctx=8192, n_kv=8192, n_parallel=2, n_prefix_cached=0)
    backend = load(model, "model", options).backend
    with closing(backend):
        for round_ in range(repeat):
            for n in LENGTHS:
                _compare(backend, model, n, 100 * round_ + n, figures.add)


def _compare(
    backend: Backend, model: Path, n: int, salt: int, add: Callable[[str, float], None]
) -> None:
    random = np.random.RandomState(salt)
    n_most = min(backend.info.n_vocab, 4000)
    prefix, *ends = (
        random.randint(300, n_most, size).astype(np.int32) for size in (n, N_NEW, N_NEW)
    )
    prompts = [np.append(prefix, end) for end in ends]
    with tempfile.TemporaryDirectory() as folder:
        device = _Device(backend, model, Path(folder))
        with closing(device.start()) as kv:
            device.first_logits(kv, prompts[0], reuse=True)
            memory_s, found = device.first_logits(kv, prompts[1], reuse=True)
            read_s, wanted = device.first_logits(kv, prompts[1], reuse=False)
            add(f"prefixes/{n}/read s", read_s)
            add(f"prefixes/{n}/from memory s", memory_s)
            add(f"prefixes/{n}/from memory KL", divergence(wanted[None], found[None]))
            while n >= 512 and not kv.counts.n_written:
                device.wait(kv)
        if n < 512:
            return  # too few for a file
        with closing(device.start()) as kv:
            disk_s, found = device.first_logits(kv, prompts[1], reuse=True)
            add(f"prefixes/{n}/from disk s", disk_s)
            add(f"prefixes/{n}/from disk KL", divergence(wanted[None], found[None]))
