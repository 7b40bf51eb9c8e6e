"""What is kept on disk about a converted GGUF file: whose it is, how true, and how fast."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct, structs

from spillover.runtime.files.json_file import fingerprint
from spillover.runtime.machine.device import describe_device

EXPORTER = 2
"""Version of the converter. A conversion by another one is made again, so it grows with every
change that makes better or other graphs, and with every check that older ones have not passed. (1:
scales in fp32, and nobody compared the weights with the file's.)"""

_LIBRARIES = ("llama-cpp-python", "onnxruntime")

MOST_DIVERGENCE = 0.01
"""Nats of Kullback-Leibler divergence from llama.cpp's own logits. The same weights in fp32 have
0.003 with SmolLM2, because llama.cpp rounds activations; 8 bits have 0.005, 4 bits 0.2."""

MAX_DEATHS = 3
"""Processes in a row that may end without a result, such as by a crash, before nobody tries again
with these versions."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 50)]
Digest: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Rate: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]


class StoredFile(Struct, frozen=True, kw_only=True):
    """A file of a conversion as it was written."""

    size_bytes: Count
    crc32: Annotated[int, Meta(ge=0, lt=1 << 32)]


class Fidelity(Struct, frozen=True, kw_only=True):
    """How a conversion compares with what llama.cpp makes of the file."""

    divergence: Annotated[float, Meta(ge=0, le=1e6)]
    """Mean Kullback-Leibler divergence from llama.cpp's logits, in nats."""
    n_positions: Count
    difference: str = ""
    """What else differs, such as a text that is tokenized in another way; empty: nothing."""
    libraries: str = ""
    """The versions of both libraries that were compared."""

    @property
    def fault(self) -> str:
        """Why the conversion is not as true as the file; empty when it is."""
        if self.difference:
            return self.difference
        if self.divergence > MOST_DIVERGENCE:
            return (
                f"its logits differ from llama.cpp's (KL divergence {self.divergence:.3f}, "
                f"at most {MOST_DIVERGENCE} is accepted)"
            )
        return ""


class LoadFailures(Struct, frozen=True, kw_only=True):
    """Workers that have failed with a conversion since the last one that loaded it."""

    n: Annotated[int, Meta(ge=1, le=MAX_DEATHS)]
    last: str
    """How the last one failed."""
    versions: str
    """The versions() of which this is true."""


class Conversion(Struct, frozen=True, kw_only=True):
    """One converted file; `conversion.json` beside its graph."""

    digest: Digest
    """SHA-256 of the GGUF file."""
    exporter: int
    n_ctx: Annotated[int, Meta(gt=0, le=1 << 24)]
    """Longest context of the graph, in tokens."""
    n_short: Count = 0
    """In contexts of up to so many tokens llama.cpp has other rotary positions (LongRoPE) than the
    graph; 0: in none."""
    window: Count = 0
    """The longest sliding window of its layers, in tokens; 0: all see all."""
    files: dict[str, StoredFile]
    """Empty: it has a fault and was removed, so that nobody makes it again."""
    fidelity: Fidelity | None = None
    """None: not compared, because llama.cpp was not installed."""
    failures: LoadFailures | None = None

    @property
    def given_up(self) -> str:
        """Why no worker loads it any more; empty while one may."""
        failures = self.failures
        if failures is None or failures.n < MAX_DEATHS:
            return ""
        return (
            f"its conversion for ONNX Runtime is given up: {failures.last} "
            "(`spillover engines FILE --again` makes it again)"
        )

    @property
    def fault(self) -> str:
        """Why llama.cpp is to serve the file; empty where nothing is known against this one."""
        return self.given_up or (self.fidelity.fault if self.fidelity is not None else "")

    def with_these_versions(self) -> Conversion:
        """Without what was found with other versions."""
        fidelity, failures = self.fidelity, self.failures
        if fidelity is not None and fidelity.libraries != libraries():
            fidelity = None
        if failures is not None and failures.versions != versions():
            failures = None
        return structs.replace(self, fidelity=fidelity, failures=failures)

    def failed(self, how: str, *, is_final: bool) -> Conversion:
        """After one more worker has failed."""
        n = 1 if self.failures is None else self.failures.n + 1
        n = MAX_DEATHS if is_final else min(n, MAX_DEATHS)
        failures = LoadFailures(n=n, last=how, versions=versions())
        return structs.replace(self, failures=failures)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


class SourceNote(Struct, frozen=True, kw_only=True):
    """What is known about one GGUF file; it holds while size and time of change are the same."""

    path: str
    size_bytes: Count
    changed_ns: int
    digest: Digest | None = None
    refusal: str = ""
    """Why the file was not converted; empty: it was, or nobody has tried."""
    n_died: Annotated[int, Meta(ge=0, le=1_000)] = 0
    """How many tries have begun since the last one that ended."""
    tried_with: str = ""
    """The versions() of which these two are true."""

    def with_these_versions(self) -> SourceNote:
        """Without what was found with other versions."""
        if self.tried_with == versions():
            return self
        return structs.replace(self, refusal="", n_died=0, tried_with=versions())


class EngineRates(Struct, frozen=True, kw_only=True):
    """Tokens per second of one engine on this device."""

    prefill: _Rate
    decode_1: _Rate
    """Of one sequence alone."""
    decode_4: _Rate
    """Of four sequences together."""

    def decode(self, n_parallel: int) -> float:
        """Tokens per second of *n_parallel* sequences together, as far as it was measured."""
        share = (min(n_parallel, 4) - 1) / 3
        return self.decode_1 + share * (self.decode_4 - self.decode_1)

    def answer_s(self, n_parallel: int) -> float:
        """Seconds per token of answers whose prompts are three times as long, as in a chat."""
        return 3 / self.prefill + 1 / self.decode(n_parallel)


class Comparison(Struct, frozen=True, kw_only=True):
    """Both engines on one file, measured in turns."""

    llama: EngineRates
    onnx: EngineRates

    def gain(self, n_parallel: int) -> float:
        """How many times as fast as llama.cpp ONNX Runtime answers."""
        return self.llama.answer_s(n_parallel) / self.onnx.answer_s(n_parallel)


def comparison_key(digest: str, n_threads: int) -> str:
    """Names what a comparison depends on: the model, the device, the libraries."""
    device = describe_device()
    return "engines-" + fingerprint(
        digest,
        EXPORTER,
        device.cpu,
        device.n_cores_physical,
        n_threads,
        *map(library_version, _LIBRARIES),
    )


def libraries() -> str:
    """The versions of the libraries of both engines."""
    return _named(_LIBRARIES)


def versions() -> str:
    """The same, and Spillover's own: what fails with these may work with others."""
    return f"{_named(('spillover', *_LIBRARIES))}, exporter {EXPORTER}"


def _named(packages: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {library_version(name)}" for name in packages)


@cache
def library_version(name: str) -> str:
    """The version of an installed package, as this process runs it; empty when it is not
    installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
