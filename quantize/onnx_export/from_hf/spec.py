"""Turns the config.json of a Hugging Face model into a ModelSpec."""

from __future__ import annotations

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.config import read_config
from spillover.quantize.onnx_export.from_hf.layers import layers
from spillover.quantize.onnx_export.from_hf.rotary import rotaries
from spillover.quantize.onnx_export.spec import ModelSpec


def read_spec(content: bytes) -> ModelSpec:
    """The spec in a config.json. Raises ExportError."""
    config = read_config(content)
    n_head, n_head_kv = config.num_attention_heads, config.num_key_value_heads
    n_per_head = config.head_dim or config.hidden_size // n_head
    if n_head % (n_head_kv or n_head) or n_per_head % 2:
        raise ExportError(
            f"config.json has {n_head} heads of {n_per_head} values for {n_head_kv} of keys: "
            "their numbers must divide and their size be even"
        )
    return ModelSpec(
        architecture=config.model_type,
        n_vocab=config.vocab_size,
        n_hidden=config.hidden_size,
        n_inner=config.intermediate_size,
        n_head=n_head,
        n_head_kv=n_head_kv or n_head,
        n_per_head=n_per_head,
        norm_epsilon=config.rms_norm_eps,
        n_ctx=config.max_position_embeddings,
        rotaries=rotaries(config, n_per_head),
        layers=layers(config),
        is_tied=config.tie_word_embeddings,
    )
