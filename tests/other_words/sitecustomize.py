"""Python imports this at the start of every process of such a run, workers and servers included.

It adds noise to all logits that llama.cpp and ONNX Runtime compute: the same in each row, so that
answers take other turns, and in the processes that tests start a little more that depends on every
bit of a row. What differs only in rounding, as a sequence does in a batch of another size, may then
be on the other side of a near tie. Pytest's own processes have none of that: there, tests compare
logits.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SEED = int(os.environ["OTHER_WORDS"])
OTHER_WORDS = 0.5
"""Nats, as the standard deviation of the noise that all rows share."""
ROUNDING = 0.03
"""The same of the noise that depends on the row: less than llama.cpp's attention may round."""


@cache
def shared_noise(n_vocab: int) -> Any:
    import numpy as np

    return np.random.default_rng(SEED).normal(0, OTHER_WORDS, n_vocab)


def disturb(row: Any) -> None:
    import numpy as np

    noise = shared_noise(len(row))
    if "pytest" not in sys.modules:
        bits = zlib.crc32(row.tobytes())
        noise = noise + np.random.default_rng([SEED, bits]).normal(0, ROUNDING, len(row))
    row += noise.astype(row.dtype)


def change_llama(library: ModuleType) -> None:
    import numpy as np

    lib: Any = library
    decode = lib.llama_decode

    def llama_decode(context: Any, batch: Any) -> int:
        code = int(decode(context, batch))
        if code == 0:
            model = lib.llama_get_model(context)
            row_type = ctypes.c_float * lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
            for i in range(batch.n_tokens):
                if batch.logits[i] if batch.logits else i == batch.n_tokens - 1:
                    pointer = ctypes.cast(lib.llama_get_logits_ith(context, i), ctypes.c_void_p)
                    disturb(np.ctypeslib.as_array(row_type.from_address(pointer.value or 0)))
        return code

    lib.llama_decode = llama_decode


def change_onnx(backend: ModuleType) -> None:
    cls: Any = vars(backend)["OnnxBackend"]
    decode = cls.decode

    def disturbed_decode(self: Any, batch: Sequence[Any]) -> None:
        decode(self, batch)
        for row in self._row_of:
            disturb(self._logits[row])

    cls.decode = disturbed_decode


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "llama_cpp.llama_cpp": change_llama,
    "spillover.runtime.onnx.backend": change_onnx,
}
"""By the name of a module: what is done to it when it has been imported."""


class Changing(Loader):
    """Loads a module as *loader* does, and changes it."""

    def __init__(self, loader: Loader, change: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


class ChangedModules(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        change = CHANGES.pop(name, None)  # the second time, the others are asked
        spec = importlib.util.find_spec(name) if change else None
        if change and spec and spec.loader:
            spec.loader = Changing(spec.loader, change)
        return spec


sys.meta_path.insert(0, ChangedModules())
