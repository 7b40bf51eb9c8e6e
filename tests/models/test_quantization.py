"""Which of several quantizations a device gets."""

from __future__ import annotations

import pytest

from spillover.models.quantization import best_first, quantization_of


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("smollm2-360m-instruct-q8_0.gguf", "Q8_0"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m.IQ4_XS.gguf", "IQ4_XS"),
        ("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
        ("m-BF16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m.gguf", ""),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
    ],
)
def test_names(name: str, quantization: str) -> None:
    assert quantization_of(name) == quantization


def test_the_best_that_fits_comes_first() -> None:
    sizes = {"Q8_0": 8_000, "Q4_K_M": 5_000, "Q2_K": 3_000, "F16": 16_000}
    assert best_first({k: v * 10**6 for k, v in sizes.items()}, 6 * 10**9)[0] == "Q4_K_M"
    assert best_first({k: v * 10**6 for k, v in sizes.items()}, 4 * 10**9)[0] == "Q2_K"


def test_where_none_fits_the_smallest_comes_first() -> None:
    assert best_first({"Q8_0": 800, "Q4_K_M": 500}, 100) == ["Q4_K_M", "Q8_0"]


def test_small_models_keep_eight_bits_where_there_is_room() -> None:
    sizes = {"Q8_0": 640 * 10**6, "Q4_K_M": 400 * 10**6}
    assert best_first(sizes, 8 * 10**9)[0] == "Q8_0"
    assert best_first(sizes, 10**9)[0] == "Q4_K_M"
