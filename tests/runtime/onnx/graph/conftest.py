"""What the reference implementation computed."""

from __future__ import annotations

import pytest

from tests import hf_reference
from tests.onnx_sessions import Logits


@pytest.fixture(scope="session")
def hf_logits() -> dict[str, Logits]:
    return hf_reference.hf_logits()
