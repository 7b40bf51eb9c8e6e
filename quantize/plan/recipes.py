"""The recipes of a plan, and what each loses.

The losses are mean KL divergences from the F16 weights in nats, of the bundled storyteller (5.8
million parameters) on stories of its own; docs/quantize.md has the table and the commands. Larger
models lose less with every recipe. The order of the recipes is what a plan needs.
"""

from __future__ import annotations

from msgspec import Struct

from spillover.quantize.onnx_export.options import BlockSize, ExportOptions


class GgufRecipe(Struct, frozen=True, kw_only=True):
    """A type of llama.cpp."""

    file_type: str
    has_imatrix: bool
    """Whether an importance matrix was found to help."""
    bits: float
    """Per weight, where the file's exact size cannot be asked for."""
    expected: float
    """Nats."""


class OnnxRecipe(Struct, frozen=True, kw_only=True):
    """Options of an export."""

    name: str
    folder_name: str
    """What to add to the model's name."""
    options: ExportOptions
    flags: tuple[str, ...]
    """What `spillover export onnx` is given for it."""
    expected: float
    """Nats."""


GGUF_RECIPES = tuple(
    GgufRecipe(file_type=kind, has_imatrix=has_imatrix, bits=bits, expected=expected)
    for kind, has_imatrix, bits, expected in (
        ("Q8_0", False, 8.5, 0.00003),
        ("Q6_K", False, 6.6, 0.00030),
        ("Q5_K_M", False, 5.7, 0.00114),
        ("Q4_K_M", False, 4.9, 0.00301),
        ("Q4_0", False, 4.6, 0.00448),
        ("IQ4_XS", True, 4.5, 0.00321),
        ("Q3_K_M", True, 3.9, 0.01005),
        ("Q2_K", True, 3.3, 0.07065),
    )
)


INT4_LOSSES: dict[bool, dict[BlockSize, float]] = {
    True: {32: 0.00221, 64: 0.00284, 128: 0.00312},
    False: {32: 0.00428, 64: 0.00500, 128: 0.00583},
}
"""Nats, by whether it is calibrated and by the size of blocks."""


def _int4(block: BlockSize, expected: float, *, is_calibrated: bool) -> OnnxRecipe:
    return OnnxRecipe(
        name=f"int4, blocks of {block}" + ", calibrated" * is_calibrated,
        folder_name=f"int4-{block}" + "-calibrated" * is_calibrated,
        options=ExportOptions(weights="int4", block=block),
        flags=("--weights int4", f"--block {block}", *["--calibration auto"] * is_calibrated),
        expected=expected,
    )


ONNX_RECIPES = (
    OnnxRecipe(
        name="int8",
        folder_name="int8",
        options=ExportOptions(weights="int8"),
        flags=("--weights int8",),
        expected=0.00003,
    ),
    *(
        _int4(block, expected, is_calibrated=is_calibrated)
        for is_calibrated, losses in INT4_LOSSES.items()
        for block, expected in losses.items()
    ),
)
