"""GGUF files of the tiny models, and with vocabularies of every kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import quantize
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests import tiny_models
from tests.many_scripts import PIECES
from tests.tiny_models import Array, fused

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GEMMAS = ("gemma2", "gemma3")
_ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}
_TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_model(
    path: Path,
    config: dict[str, Any],
    kind: str = "F32",
    merges: Iterable[tuple[str, str]] = (("a", "b"),),
    *,
    is_fused: bool = False,
    adds_bos: bool = False,
    n_part: int = 0,
    raw: Mapping[str, tuple[npt.NDArray[np.uint8], str]] = MappingProxyType({}),
) -> Path:
    """A whole model; its matrices stored as *kind*. llama.cpp loads it if there are *merges*.

    *is_fused*: with one matrix for queries, keys and values. *adds_bos*: texts begin with BOS.
    *n_part*: tensors of each of several files, PATH-00001-of-…; 0: all in one. *raw*: the bytes and
    the types of single tensors, by their names in the file.
    """
    architecture = _ARCHITECTURES.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=n_part)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope(config, "full_attention")["rope_theta"])
    share = config.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(config["head_dim"] * share))
    _add_scaling(writer, config)
    _add_family(writer, config)
    add_byte_vocabulary(writer, config["vocab_size"], *merges)
    if adds_bos:
        writer.add_add_bos_token(True)
    tensors = {}
    for name, values in tiny_models.weights(config).items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        key = heads.get(name.split(".")[-2])
        if architecture in ("llama", "smollm3", "granite") and key is not None:
            values = _neighbours(values, config[key])
        if architecture in _GEMMAS and "norm" in name:
            values = values + 1
        tensors[name] = values
    for name, values in (fused(tensors, "qkv_proj") if is_fused else tensors).items():
        stored_name = _gguf_name(name, architecture)
        if stored_name in raw:
            data, raw_kind = raw[stored_name]
            writer.add_tensor(stored_name, data, raw_dtype=gguf.GGMLQuantizationType[raw_kind])
        else:
            _add_tensor(writer, stored_name, values, kind)
    return finished(writer, path)


@cache
def _byte_level_state() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PIECES, trainer)
    return _state(tokenizer)


def write_byte_level(path: Path, split: str, *, add_bos: bool | None = None) -> Path:
    """A vocabulary of byte-level BPE without a model, with tokens that lie across words."""
    state = _byte_level_state()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    _add_tokens(writer, state["vocab"], n_special=2)
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    return finished(writer, path)


SPECIAL, DEFINED = ("<|user|>", "<|end|>", "<|endoftext|>"), ("\n\n", "▁▁", "<mark>")
"""Control tokens and tokens defined by the user of a vocabulary of SentencePiece."""


def write_sentence_piece(
    path: Path, *, add_space_prefix: bool = True, name: str | None = None
) -> Path:
    """A vocabulary of SentencePiece's kind of BPE without a model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    tokenizer.train_from_iterator(PIECES, trainer)
    pieces = sorted(_state(tokenizer)["vocab"].items(), key=lambda item: item[1])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *[6] * 256]
    scores = [0.0] * len(tokens)
    for text, kind in (*((text, 3) for text in SPECIAL), *((text, 4) for text in DEFINED)):
        tokens.append(text)
        types.append(kind)
        scores.append(-1000.0)
    for rank, (piece, _) in enumerate(pieces):
        if piece not in tokens:
            tokens.append(piece)
            types.append(1)
            scores.append(-float(rank))
    writer = gguf.GGUFWriter(path, "llama")
    if name is not None:
        writer.add_name(name)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores(scores)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(add_space_prefix)
    return finished(writer, path)


def _state(tokenizer: Tokenizer) -> Any:
    import json

    return json.loads(tokenizer.to_str())["model"]


def _add_tokens(writer: gguf.GGUFWriter, vocab: dict[str, int], *, n_special: int) -> None:
    ordered = sorted(vocab, key=lambda token: vocab[token])
    writer.add_token_list(ordered)
    writer.add_token_types([3 if index < n_special else 1 for index in range(len(ordered))])


def add_byte_vocabulary(writer: gguf.GGUFWriter, n_vocab: int, *merges: tuple[str, str]) -> None:
    """Single bytes, and what *merges* make of them; llama.cpp loads no model without one."""
    n_bytes = n_vocab - 2 - len(merges)
    alphabet: Iterable[str] = sorted(pre_tokenizers.ByteLevel.alphabet())[:n_bytes]
    tokens = ["<0>", "<1>", *alphabet, *map("".join, merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    _add_tokens(writer, {token: i for i, token in enumerate(tokens)}, n_special=2)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _rope(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """The rotary parameters of a kind of layer."""
    theta = config["rope_local_base_freq" if kind == "sliding_attention" else "rope_theta"]
    scaling = config.get("rope_scaling", {}) if kind == "full_attention" else {}
    found = config.get("rope_parameters", {}).get(kind, scaling)
    return {"rope_theta": theta, **found}


def _add_scaling(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    scaling = _rope(config, "full_attention")
    if not {"type", "rope_type"} & scaling.keys():
        return
    if scaling.get("type") == "longrope":
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(original)
        stretch = np.log(config["max_position_embeddings"] / original) / np.log(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + stretch)))
        for name in ("long", "short"):
            factors = np.asarray(scaling[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)
        return
    if scaling["rope_type"] != "llama3":
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        original = scaling.get("original_max_position_embeddings")
        if original is not None:
            writer.add_rope_scaling_orig_ctx_len(original)
        return
    # How llama.cpp's converter stores it: a factor for each frequency.
    wavelengths = (
        2
        * np.pi
        * scaling["rope_theta"] ** (np.arange(0, config["head_dim"], 2) / config["head_dim"])
    )
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = (original / wavelengths - low) / (high - low)
    factors = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    factors = np.where(wavelengths < original / high, 1, factors)
    factors = np.where(wavelengths > original / low, scaling["factor"], factors)
    writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))


def _add_family(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if config["model_type"] == "gemma3_text":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_rope_freq_base_swa(_rope(config, "sliding_attention")["rope_theta"])
        if "layer_types" in config:
            kinds = config["layer_types"]
            writer.add_sliding_window_pattern([kind.startswith("sliding") for kind in kinds])
        if "final_logit_softcapping" in config:
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] == "gemma2":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] == "phi3":
        writer.add_sliding_window(config.get("sliding_window", 0))
    if config["model_type"] == "granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: Array, kind: str) -> None:
    if values.ndim == 1 or kind == "F32":
        writer.add_tensor(name, values)
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(values, quantization), raw_dtype=quantization)


def _gguf_name(name: str, architecture: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    stem, end = rest.rsplit(".", 1)
    names = {**_LAYER_NAMES, **(_GEMMA_NAMES if architecture in _GEMMAS else {})}
    return f"blk.{layer}.{names[stem]}.{end}"


def _neighbours(values: Array, heads: int) -> Array:
    """The rows in the order of llama.cpp, which rotates neighbours together."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def finished(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
