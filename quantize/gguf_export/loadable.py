"""What llama.cpp loads of some architectures only: it refuses a file with tensors that it does not
look for, or of other shapes than it expects."""

from __future__ import annotations

from collections.abc import Iterable

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.rotary import ALL, LONG, SHORT
from spillover.quantize.onnx_export.spec import ModelSpec

_OPTIONAL = {
    ALL: ("llama", "granite"),
    SHORT: ("llama", "granite", "phi3"),
    LONG: ("llama", "granite", "phi3"),
    "attn_output.bias": ("llama", "granite"),
    "ffn_gate.bias": ("llama", "granite"),
    "ffn_up.bias": ("llama", "granite"),
    "ffn_down.bias": ("llama", "granite"),
}
"""By the end of a tensor's name: the architectures that may have it (load_arch_tensors in
llama.cpp's src/models)."""
_SQUARE = ("qwen2", "phi3")
"""Whose heads together must be as wide as the hidden state."""


def check_loadable(spec: ModelSpec, names: Iterable[str]) -> None:
    """Check that llama.cpp would load a model with tensors of these *names*. Raises ExportError."""
    kind = spec.family.gguf
    for name in names:
        part = ".".join(name.split(".")[-2:])
        if kind not in _OPTIONAL.get(part, (kind,)):
            raise _not_loadable(f"has no tensor {name} in models of the architecture {kind}")
    if kind in _SQUARE and spec.n_head * spec.n_per_head != spec.n_hidden:
        raise _not_loadable(
            f"wants models of the architecture {kind} to have {spec.n_hidden} values in all heads, "
            f"and this one has {spec.n_head} heads of {spec.n_per_head}"
        )
    if spec.family.rotates_neighbours and any(
        2 * len(rotary.frequencies) != spec.n_per_head for rotary in spec.rotaries
    ):
        raise _not_loadable(f"turns whole heads in models of the architecture {kind}")


def _not_loadable(why: str) -> ExportError:
    return ExportError(f"llama.cpp {why}, and would not load the file: export it to ONNX")
