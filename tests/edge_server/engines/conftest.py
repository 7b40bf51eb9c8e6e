"""A file that is worth a conversion."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spillover.edge_server.commands.engines.order import Order
from spillover.runtime.conversions.choice import MIN_SOURCE_BYTES
from tests import tiny_gguf, tiny_models
from tests.edge_server.engines.conversions import options_in

LARGER = {
    **tiny_models.CONFIGS["llama"],
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is worth a conversion, with made-up weights."""
    path = tmp_path_factory.mktemp("larger") / "m.gguf"
    tiny_gguf.write_model(path, LARGER, "Q8_0", merges=[("a", "b")])
    assert path.stat().st_size >= MIN_SOURCE_BYTES
    return path


@pytest.fixture
def order(larger: Path, tmp_path: Path) -> Order:
    path = Path(shutil.copy(larger, tmp_path / "m.gguf"))
    return Order(path=path, options=options_in(tmp_path), in_background=False)
