"""States on disk: those of a device with a model, and those of a folder alone."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.backend import Backend, SavedKv, Tokens
from spillover.runtime.files.json_file import fingerprint
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.kv_cache import prefix_files
from spillover.runtime.kv_cache.prefix_disk import LEAST_TOKENS, PrefixDisk, PrefixDiskOptions
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefixes
from spillover.runtime.options import EngineOptions, PrefixDiskChoice
from tests.runtime.kv_cache.conversations import Conversations, text

OPTIONS = EngineOptions(n_parallel=2, n_prefix_cached=2, n_kv=2048, n_ctx=1024, n_threads=1)
N_PREAMBLE = LEAST_TOKENS + 20
PREAMBLE = text(N_PREAMBLE, 0)

on_one_model = pytest.mark.parametrize("model", ["gguf"], indirect=True)
"""What a file is of does not matter."""


class Device:
    """A cache folder, and the processes that use it one after the other."""

    def __init__(self, backend: Backend, model: Path, cache_dir: Path) -> None:
        self.backend = backend
        self.cache_dir = cache_dir
        self._model = model

    def options(self, keeps: PrefixDiskChoice = "instructions") -> PrefixDiskOptions:
        saver = self.backend.saver
        assert saver is not None
        return PrefixDiskOptions(
            cache_dir=self.cache_dir,
            digest=ModelDigest([self._model] if self._model.is_file() else [], self.cache_dir),
            facts=(self.backend.info.library, saver.layout),
            max_bytes=64 << 20,
            keeps=keeps,
        )

    def start(self, options: PrefixDiskOptions | None = None) -> Conversations:
        return Conversations(self.backend, saved_bytes=64 << 20, disk=options or self.options())

    def files(self) -> list[Path]:
        return sorted(self.cache_dir.glob("prefixes/*/*.kv"))


class Folder:
    """The files of one model, without the model."""

    def __init__(self, cache_dir: Path) -> None:
        model = cache_dir / "model"
        model.write_bytes(b"weights")
        digest = ModelDigest([model], cache_dir)
        self._options = PrefixDiskOptions(
            cache_dir=cache_dir, digest=digest, facts=(), max_bytes=1 << 20, keeps="all"
        )
        identity = fingerprint(digest.compute(lambda: False) or "")
        self.files = prefix_files.PrefixFiles(cache_dir, identity, self._options.max_bytes)
        self._woken = threading.Event()

    def start(self, saved: SavedPrefixes) -> PrefixDisk:
        return PrefixDisk(saved, self._options, self._woken.set)

    def wait(self, disk: PrefixDisk) -> None:
        """Until a thread has moved something between memory and disk."""
        assert self._woken.wait(60)
        self._woken.clear()
        disk.take()


def state(n_bytes: int) -> SavedKv:
    return np.ones(n_bytes, dtype=np.uint8)


def talk(salt: int) -> Tokens:
    return np.append(PREAMBLE, text(15, salt))


def write_preamble(device: Device) -> None:
    """By two conversations that begin with it."""
    with closing(device.start()) as conversations:
        for salt in (1, 2):
            conversations.answer(talk(salt), n_answer=1, n_preamble=N_PREAMBLE)
        conversations.wait_for_files(1)
    assert len(device.files()) == 1
