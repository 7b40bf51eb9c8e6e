"""GGUF files of tiny models, some of whose layers do not remember every position."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_gguf import add_byte_vocabulary, finished
from tests.tiny_models import Array

WINDOW = 16
"""Positions that a layer with a sliding window sees."""

_N_VOCAB, _N_EMBD, _N_FF, _N_HEAD, _N_HEAD_KV, _HEAD_DIM = 96, 64, 96, 4, 2, 16
_N_INNER, _N_STATE, _N_CONV, _DT_RANK = 128, 8, 4, 4
_CONTEXT = 2048


def write_windowed(path: Path) -> Path:
    """Gemma 3: of six layers, five see the last WINDOW positions and one sees all."""
    writer = _writer(path, "gemma3", n_layers=6)
    writer.add_sliding_window(WINDOW)
    _add(writer, "output_norm", _N_EMBD)
    for layer in range(6):
        _add_attention(writer, layer)
        _add(writer, f"blk.{layer}.post_attention_norm", _N_EMBD)
        _add(writer, f"blk.{layer}.post_ffw_norm", _N_EMBD)
        _add_mlp(writer, layer)
    return finished(writer, path)


def write_hybrid(path: Path) -> Path:
    """LFM2: short convolutions, whose state holds the end of a text, and attention in turns."""
    writer = _writer(path, "lfm2", n_layers=4, n_head_kv=[0, _N_HEAD_KV, 0, _N_HEAD_KV])
    writer.add_shortconv_l_cache(3)
    _add(writer, "token_embd_norm", _N_EMBD)
    for layer in range(4):
        if layer % 2:
            _add_attention(writer, layer)
        else:
            _add(writer, f"blk.{layer}.attn_norm", _N_EMBD)
            _add(writer, f"blk.{layer}.shortconv.conv", _N_EMBD, 3)
            _add(writer, f"blk.{layer}.shortconv.in_proj", 3 * _N_EMBD, _N_EMBD)
            _add(writer, f"blk.{layer}.shortconv.out_proj", _N_EMBD, _N_EMBD)
        _add_mlp(writer, layer)
    return finished(writer, path)


def write_recurrent(path: Path) -> Path:
    """Mamba: one state for the whole text."""
    writer = _writer(path, "mamba", n_layers=2)
    writer.add_ssm_conv_kernel(_N_CONV)
    writer.add_ssm_inner_size(_N_INNER)
    writer.add_ssm_state_size(_N_STATE)
    writer.add_ssm_time_step_rank(_DT_RANK)
    _add(writer, "output_norm", _N_EMBD)
    for layer in range(2):
        name = f"blk.{layer}"
        _add(writer, f"{name}.attn_norm", _N_EMBD)
        _add(writer, f"{name}.ssm_in", 2 * _N_INNER, _N_EMBD)
        _add(writer, f"{name}.ssm_conv1d", _N_INNER, _N_CONV)
        _add(writer, f"{name}.ssm_conv1d", _N_INNER, end="bias")
        _add(writer, f"{name}.ssm_x", _DT_RANK + 2 * _N_STATE, _N_INNER)
        _add(writer, f"{name}.ssm_dt", _N_INNER, _DT_RANK)
        _add(writer, f"{name}.ssm_dt", _N_INNER, end="bias")
        decay = -np.tile(np.arange(1, _N_STATE + 1, dtype=np.float32) / 8, (_N_INNER, 1))
        writer.add_tensor(f"{name}.ssm_a", decay)
        writer.add_tensor(f"{name}.ssm_d", np.ones(_N_INNER, np.float32))
        _add(writer, f"{name}.ssm_out", _N_EMBD, _N_INNER)
    return finished(writer, path)


def _writer(
    path: Path, architecture: str, *, n_layers: int, n_head_kv: Any = _N_HEAD_KV
) -> gguf.GGUFWriter:
    """With what all of them have."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(_N_HEAD)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(_HEAD_DIM)
    writer.add_value_length(_HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(_N_VOCAB)
    add_byte_vocabulary(writer, _N_VOCAB, ("a", "b"))
    _add(writer, "token_embd", _N_VOCAB, _N_EMBD)
    return writer


def _add_attention(writer: gguf.GGUFWriter, layer: int) -> None:
    name, n_query, n_shared = f"blk.{layer}", _N_HEAD * _HEAD_DIM, _N_HEAD_KV * _HEAD_DIM
    _add(writer, f"{name}.attn_norm", _N_EMBD)
    _add(writer, f"{name}.attn_q", n_query, _N_EMBD)
    _add(writer, f"{name}.attn_k", n_shared, _N_EMBD)
    _add(writer, f"{name}.attn_v", n_shared, _N_EMBD)
    _add(writer, f"{name}.attn_output", _N_EMBD, n_query)
    _add(writer, f"{name}.attn_q_norm", _HEAD_DIM)
    _add(writer, f"{name}.attn_k_norm", _HEAD_DIM)


def _add_mlp(writer: gguf.GGUFWriter, layer: int) -> None:
    name = f"blk.{layer}"
    _add(writer, f"{name}.ffn_norm", _N_EMBD)
    _add(writer, f"{name}.ffn_gate", _N_FF, _N_EMBD)
    _add(writer, f"{name}.ffn_up", _N_FF, _N_EMBD)
    _add(writer, f"{name}.ffn_down", _N_EMBD, _N_FF)


def _add(writer: gguf.GGUFWriter, name: str, *shape: int, end: str = "weight") -> None:
    """A tensor of made-up numbers, the same ones on every machine."""
    writer.add_tensor(f"{name}.{end}", _made_up(f"{name}.{end}", shape))


def _made_up(name: str, shape: tuple[int, ...]) -> Array:
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name:
        draw = 1 + draw / 8
    elif "embd" not in name:
        draw = draw * 2 / np.sqrt(shape[-1])
    return draw.astype(np.float32)
