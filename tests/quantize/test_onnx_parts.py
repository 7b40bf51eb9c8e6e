"""A graph that runs part by part computes what it computes as a whole, and is never held whole."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from spillover.quantize import onnx_parts
from spillover.quantize.conversion.fidelity import read_slices, sample, slices
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_parts import OnnxParts
from spillover.runtime.backend import Logits, Rows
from spillover.runtime.onnx.opening import open_onnx
from spillover.runtime.onnx.session import OnnxSession
from spillover.runtime.options import EngineOptions
from tests import tiny_models
from tests.onnx_sessions import VERSION
from tests.tiny_models import CONFIGS

N_CTX = 128


def exported(name: str, folder: Path, **options: Any) -> Path:
    tiny_models.write_byte_level(folder / "hf", CONFIGS[name])
    made = ExportOptions(n_ctx=N_CTX, **options)
    return export(folder / "hf", folder / "m", made, lambda n_done, n_all: None).folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemma2", {"weights": "int4"}),
        ("phi3", {"weights": "int8", "external_data": True}),
        ("qwen3", {"weights": "int4", "interface": "genai"}),
        ("llama", {"weights": "fp16"}),
        ("llama", {"weights": "int8", "kv_cache": "int8", "calibration": "abc " * 80}),
    ],
)
def test_all_parts_together_compute_what_the_graph_does(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options.get("kv_cache") and VERSION < (1, 32):
        pytest.skip("older versions have no such cache")
    monkeypatch.setattr(onnx_parts, "_PART_BYTES", 1 << 12)
    folder = exported(name, tmp_path, **options)
    small = EngineOptions(n_ctx=N_CTX, n_kv=N_CTX, n_parallel=1, n_prefix_cached=0)
    parts = OnnxParts(folder)
    tokens = sample(parts.tokenizer, 8 * 40)
    with closing(open_onnx(folder, small).backend) as backend:
        wanted = [logits for _, logits in read_slices(backend, tokens)]
    found = parts.last_logits(list(slices(tokens, len(tokens))))
    np.testing.assert_allclose(found, wanted, atol=3e-2 if name == "llama" else 1e-3)


def test_the_parts_write_what_the_whole_model_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_parts, "_PART_BYTES", 1 << 12)
    folder = exported("llama", tmp_path, weights="fp32")
    parts = OnnxParts(folder)
    text = sample(parts.tokenizer, 8 * 16)
    prompt, guesses = text[:8], text[8:]
    wanted, start, tokens = [], 0, prompt
    small = EngineOptions(n_ctx=N_CTX, n_kv=N_CTX, n_parallel=1, n_prefix_cached=0)
    with closing(open_onnx(folder, small).backend) as backend:
        for _ in guesses:
            backend.decode([Rows(0, start, tokens, True)])
            start += len(tokens)
            wanted.append(backend.logits(0).copy())
            tokens = np.array([wanted[-1].argmax()], np.int32)
    np.testing.assert_allclose(parts.greedy(prompt, guesses), wanted, atol=1e-3)
    # What is guessed right passes the parts once.
    calls: list[Sequence[Rows]] = []
    run = parts.last_logits

    def counted(rows: Sequence[Rows]) -> list[Logits]:
        calls.append(rows)
        return run(rows)

    monkeypatch.setattr(parts, "last_logits", counted)
    parts.greedy(prompt, np.argmax(wanted, -1).astype(np.int32))
    assert len(calls) == 1


def test_one_part_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most_bytes, held = 1 << 16, weakref.WeakSet[OnnxSession]()
    loaded: list[int] = []

    class Watched(OnnxSession):
        def __init__(self, graph: bytes, *given: Any) -> None:
            assert not held
            weights = onnx.load_from_string(graph).graph.initializer
            loaded.append(sum(map(onnx_parts._n_bytes, weights)))
            super().__init__(graph, *given)
            held.add(self)

    monkeypatch.setattr(onnx_parts, "OnnxSession", Watched)
    monkeypatch.setattr(onnx_parts, "_PART_BYTES", most_bytes)
    parts = OnnxParts(exported("llama", tmp_path, weights="fp32", external_data=True))
    tokens = sample(parts.tokenizer, 8 * 16)
    parts.last_logits(list(slices(tokens, len(tokens))))
    assert len(loaded) > 3
    assert max(loaded) <= max(most_bytes, parts.largest_bytes)
