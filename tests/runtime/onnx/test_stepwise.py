"""Graphs that are only right for one new token at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.backend import Backend, Logits, Rows
from spillover.runtime.options import EngineOptions
from tests import plain_decoder
from tests.loading import opened_onnx
from tests.storyteller import STORYTELLER

OPTIONS = EngineOptions(n_parallel=1, n_ctx=128, n_threads=1)
TEXT = "Once upon a time there was a fox named Ruby"


@pytest.fixture(scope="module")
def orderless(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    folder = tmp_path_factory.mktemp("model") / "orderless"
    plain_decoder.write_orderless(STORYTELLER, folder)
    return opened_onnx(folder, OPTIONS).backend


def logits_after_text(backend: Backend) -> Logits:
    tokens = backend.tokenize(TEXT, add_special=False, parse_special=False)
    backend.keep(0, 0)
    backend.decode([Rows(0, 0, tokens[:3], False)])
    backend.decode([Rows(0, 3, tokens[3:], True)])
    return backend.logits(0).copy()


def test_its_prompts_are_read_token_by_token_and_the_user_is_notified(orderless: Backend) -> None:
    assert any("one new token at a time" in warning for warning in orderless.info.warnings)


def test_it_gives_what_the_right_graph_gives(orderless: Backend, tmp_path: Path) -> None:
    right = plain_decoder.write(STORYTELLER, tmp_path / "right")
    backend = opened_onnx(right, OPTIONS, rewrite=False).backend
    assert backend.info.warnings == ()
    np.testing.assert_allclose(logits_after_text(orderless), logits_after_text(backend), atol=1e-3)
