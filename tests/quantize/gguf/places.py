"""What the tests of quantization share."""

from __future__ import annotations

from pathlib import Path

from spillover.quantize.gguf.recipe import QuantizeOrder, Recipe
from tests import tiny_models

CONFIG = {
    **tiny_models.CONFIGS["llama"],
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 64,
    "num_hidden_layers": 1,
}
"""Rows of 256 values."""


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def order_for(source: Path, target: Path, recipe: Recipe) -> QuantizeOrder:
    return QuantizeOrder(source=source, target=target, recipe=recipe, n_threads=1)
