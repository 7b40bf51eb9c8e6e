"""The decoder families that this package can write, and how their files differ from Llama's."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

Activation = Literal["silu", "gelu_tanh"]


class Norms(Struct, frozen=True, kw_only=True):
    """Names of a layer's norms."""

    before_attention: str = "input_layernorm"
    after_attention: str | None = None
    """The norm of what attention adds; None: none."""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str | None = None
    """The norm of what the MLP adds; None: none."""

    def names(self) -> list[str]:
        every = (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)
        return [name for name in every if name is not None]


class Family(Struct, frozen=True, kw_only=True):
    """What the models of one type (config.json: model_type) have in common."""

    gguf: str
    """Their architecture in GGUF files."""
    activation: Activation = "silu"
    has_head_norms: bool = False
    """Whether each head of the queries and keys is normalized."""
    norms: Norms = Norms()
    stores_norms_less_one: bool = False
    """Whether safetensors hold the weights of norms less one."""
    needs_fp32: bool = False
    """Whether values inside exceed what fp16 can hold."""
    rotates_neighbours: bool = False
    """Whether values that are rotated together are neighbours in GGUF files; Hugging Face puts the
    second of each pair half a head further."""


_GEMMA2 = Family(
    gguf="gemma2",
    activation="gelu_tanh",
    norms=Norms(
        after_attention="post_attention_layernorm",
        before_mlp="pre_feedforward_layernorm",
        after_mlp="post_feedforward_layernorm",
    ),
    stores_norms_less_one=True,
    needs_fp32=True,
)
FAMILIES: dict[str, Family] = {
    "llama": Family(gguf="llama", rotates_neighbours=True),
    "mistral": Family(gguf="llama", rotates_neighbours=True),
    "qwen2": Family(gguf="qwen2"),
    "qwen3": Family(gguf="qwen3", has_head_norms=True),
    "gemma2": _GEMMA2,
    "gemma3_text": structs.replace(_GEMMA2, gguf="gemma3", has_head_norms=True),
    "smollm3": Family(gguf="smollm3", rotates_neighbours=True),
    "phi3": Family(gguf="phi3"),
    "granite": Family(gguf="granite", rotates_neighbours=True),
}
"""SmolLM's type is llama."""


def of_gguf(architecture: str) -> str | None:
    """The model type of a GGUF architecture; None for one that is not known."""
    return next((name for name, family in FAMILIES.items() if family.gguf == architecture), None)
