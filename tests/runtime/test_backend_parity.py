"""The same weights say the same on both libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.models.catalogue import find
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.backend import Backend, Logits, Rows, Tokens
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Message
from spillover.runtime.worker.loading import LoadedModel
from tests.loading import load

N_TOKENS = 40
TIE = 0.3
"""Logits so near each other (their standard deviation is 3) are a tie, which rounding decides."""

PROMPTS = [f"Tell me a story about a {kind} named {name}." for kind, name in [
    ("fox", "Ruby"), ("dog", "Max"), ("cat", "Luna"), ("frog", "Finn"), ("owl", "Olive"),
    ("bear", "Bruno"), ("mouse", "Mia"), ("hen", "Hetty"),
]]  # fmt: skip


@pytest.fixture(scope="module")
def gguf() -> Iterator[LoadedModel]:
    yield from opened(find("storyteller").path)


@pytest.fixture(scope="module", params=["int8", "fp32"])
def onnx(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedModel]:
    """The GGUF file's weights: bit by bit in blocks of 8-bit numbers, or as floats."""
    path = find("storyteller-onnx").path
    if request.param == "fp32":
        path = tmp_path_factory.mktemp("exported") / "model"
        export(find("storyteller").path, path, ExportOptions(weights="fp32"), lambda *_: None)
    yield from opened(path)


def opened(path: Path) -> Iterator[LoadedModel]:
    model = load(path, "storyteller", EngineOptions(n_parallel=1, n_threads=1, n_ctx=512))
    yield model
    model.backend.close()


def prompt_of(model: LoadedModel, text: str) -> Tokens:
    rendered = model.template.render((Message(role="user", content=text),))
    return model.backend.tokenize(rendered, add_special=False, parse_special=True)


def read(backend: Backend, start: int, tokens: Tokens) -> Logits:
    backend.decode([Rows(0, start, tokens, True)])
    return backend.logits(0)


def test_both_make_the_same_prompt_of_a_conversation(gguf: LoadedModel, onnx: LoadedModel) -> None:
    for text in PROMPTS:
        assert prompt_of(gguf, text).tolist() == prompt_of(onnx, text).tolist()


@pytest.mark.parametrize("parse_special", [True, False])
def test_both_cut_every_text_into_the_same_tokens(
    gguf: LoadedModel, onnx: LoadedModel, parse_special: bool
) -> None:
    @given(st.text(max_size=40) | st.text("ab .,'\n<|im_end>", max_size=40))
    def check(text: str) -> None:
        ours, theirs = (
            model.backend.tokenize(text, add_special=True, parse_special=parse_special).tolist()
            for model in (gguf, onnx)
        )
        assert ours == theirs

    check()


def test_both_say_the_same_but_for_ties(gguf: LoadedModel, onnx: LoadedModel) -> None:
    n_other = 0
    for text in PROMPTS:
        tokens, start = prompt_of(gguf, text), 0
        for _ in range(N_TOKENS):
            wanted = int(read(gguf.backend, start, tokens).argmax())
            found = read(onnx.backend, start, tokens)
            assert found.max() - found[wanted] < TIE
            n_other += int(found.argmax()) != wanted
            start += len(tokens)
            tokens = np.array([wanted], dtype=np.int32)
        for model in (gguf, onnx):
            model.backend.keep(0, 0)
    assert n_other <= 0.02 * N_TOKENS * len(PROMPTS)
