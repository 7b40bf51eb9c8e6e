"""Turns the config.json of a Hugging Face model into a ModelSpec."""

from __future__ import annotations

import math

import msgspec

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.from_hf.layers import layers
from spillover.quantize.onnx_export.from_hf.rotary import rotaries
from spillover.quantize.onnx_export.spec import ModelSpec


def spec_of(config: HfConfig) -> ModelSpec:
    """The spec that a config.json describes. Raises ExportError."""
    n_head, n_head_kv = config.num_attention_heads, config.num_key_value_heads
    n_per_head = config.head_dim or config.hidden_size // n_head
    if n_head % (n_head_kv or n_head) or n_per_head % 2:
        raise ExportError(
            f"config.json has {n_head} heads of {n_per_head} values for {n_head_kv} of keys: "
            "their numbers must divide and their size be even"
        )
    spec = ModelSpec(
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
    return _scaled(spec, config)


def _scaled(spec: ModelSpec, config: HfConfig) -> ModelSpec:
    """With the factors of the families that have any."""
    if config.model_type == "granite":
        return msgspec.structs.replace(
            spec,
            embedding_scale=config.embedding_multiplier,
            attention_scale=config.attention_multiplier,
            residual_scale=config.residual_multiplier,
            logit_scale=1 / config.logits_scaling,
        )
    if config.model_type in ("gemma2", "gemma3_text"):
        return msgspec.structs.replace(
            spec,
            embedding_scale=math.sqrt(spec.n_hidden),
            attention_scale=1 / math.sqrt(config.query_pre_attn_scalar),
            attention_cap=config.attn_logit_softcapping,
            logit_cap=config.final_logit_softcapping,
        )
    return spec
