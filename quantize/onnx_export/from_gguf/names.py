"""Hugging Face's names of the tensors in a GGUF file, and back."""

from __future__ import annotations

_TOP = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_IN_LAYER_OF = {
    "gemma2": _FOUR_NORMS,
    "gemma3_text": _FOUR_NORMS,
    # llama.cpp keeps the gate and the rest of the MLP in one matrix of this name.
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}
"""By model type, what differs from the names above."""


def hf_name(stored: str, model_type: str) -> str:
    """Hugging Face's name of a tensor; unknown names are returned as they are."""
    stem, _, end = stored.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{end}"
    block, _, rest = stem.removeprefix("blk.").partition(".")
    name = _IN_LAYER_OF.get(model_type, {}).get(rest) or _IN_LAYER.get(rest)
    if stem.startswith("blk.") and name is not None:
        return f"layers.{block}.{name}.{end}"
    return stored


def gguf_name(name: str, model_type: str) -> str | None:
    """The name in a GGUF file of a tensor under Hugging Face's name, without a leading "model.";
    None for one that has none."""
    stem, _, end = name.rpartition(".")
    top = {ours: stored for stored, ours in _TOP.items()}
    if stem in top:
        return f"{top[stem]}.{end}"
    place, _, rest = stem.removeprefix("layers.").partition(".")
    own = _IN_LAYER_OF.get(model_type, {})
    stored_by_name = {ours: stored for stored, ours in {**_IN_LAYER, **own}.items()}
    stored = stored_by_name.get(rest)
    return f"blk.{place}.{stored}.{end}" if stem.startswith("layers.") and stored else None
