"""Which options of an export would change nothing: nobody should believe that they did."""

from __future__ import annotations

from fnmatch import fnmatchcase

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.source import WeightSource

_DEFAULT = ExportOptions()


def check_options(source: WeightSource, options: ExportOptions) -> None:
    """Raises ExportError for options without effect on *source*; *options* name the weights."""
    weights = options.weights
    is_int4, is_int8 = weights == "int4", options.kv_cache == "int8"
    effects = {
        "--calibration": (bool(options.calibration), is_int4 or is_int8, "int4"),
        "--symmetric": (options.is_symmetric, is_int4, "int4"),
        "--keep-8bit": (bool(options.eight_bits), is_int4, "int4"),
        "--head-bits": (
            _differs(options, "head_bits"),
            is_int4 or weights == "int8",
            "int4 and int8",
        ),
        "--block": (_differs(options, "block"), weights not in ("fp16", "fp32"), "int4 and int8"),
    }
    for flag, (is_given, has_effect, others) in effects.items():
        if is_given and not has_effect:
            raise ExportError(
                f"{flag} has no effect with {weights} weights, but with {others}: leave it out, or "
                "choose other --weights"
            )
    _check_patterns(source, options)


def _differs(options: ExportOptions, name: str) -> bool:
    return bool(getattr(options, name) != getattr(_DEFAULT, name))


def _check_patterns(source: WeightSource, options: ExportOptions) -> None:
    """Each must fit a matrix."""
    matrices = sorted(
        name.removesuffix(".weight") for name in source.names() if len(source.shape(name)) == 2
    )
    for pattern in options.eight_bits:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            layer = [name for name in matrices if name.startswith("layers.0.")]
            raise ExportError(
                f"no matrix has a name that fits {pattern!r}: those of the first layer are "
                f"{', '.join(layer)}"
            )
