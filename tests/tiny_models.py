"""Tiny decoders with made-up weights, as Hugging Face folders: the same ones on every machine."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

Array = npt.NDArray[np.float32]

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_QWEN2 = {**_LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
_GEMMA3 = {
    **{name: value for name, value in _LLAMA.items() if name != "hidden_act"},
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "pad_token_id": 1,
    "num_hidden_layers": 7,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 9,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": True,
}
_GEMMA2 = {
    **{name: value for name, value in _LLAMA.items() if name != "hidden_act"},
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "pad_token_id": 1,
    "num_hidden_layers": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 9,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "tie_word_embeddings": True,
}
_FOUR_NORMS = ("gemma2", "gemma3_text")
_PHI3 = {
    **_LLAMA,
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "pad_token_id": 1,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "smollm": {**_LLAMA, "tie_word_embeddings": True, "rope_theta": 100000.0},
    "llama-3.1": {
        **_LLAMA,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama-linear": {**_LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-biased": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "mistral": {
        **_LLAMA,
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 11,
    },
    "qwen2": _QWEN2,
    "qwen2-windows": {
        **_QWEN2,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
    "qwen2-yarn": {
        **_QWEN2,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen3": {
        **_LLAMA,
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
    "gemma2": _GEMMA2,
    "gemma2-scaled": {**_GEMMA2, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 0.5},
    "gemma3": _GEMMA3,
    "gemma3-capped": {
        **_GEMMA3,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "gemma3-scaled": {**_GEMMA3, "num_hidden_layers": 2, "query_pre_attn_scalar": 24},
    "smollm3": {
        **_LLAMA,
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "pad_token_id": 1,
        "num_hidden_layers": 5,
        "rope_theta": 50000.0,
        "tie_word_embeddings": True,
    },
    "smollm3-chosen": {
        **_LLAMA,
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "pad_token_id": 1,
        "no_rope_layers": [0, 1, 0],
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "phi3": {**_PHI3, "sliding_window": 11},
    "phi3-long": {**_PHI3, "original_max_position_embeddings": 32, "rope_scaling": _LONGROPE},
    "phi3-short": {
        **_PHI3,
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 256,
        "rope_scaling": _LONGROPE,
    },
    "phi4-mini": {
        **_PHI3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
    },
    "granite": {
        **_LLAMA,
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.5,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
}
N_CTX = {"phi3-short": 256}
"""The context to export where a longer one has other logits."""
IDS: npt.NDArray[np.int64] = np.random.RandomState(7).randint(0, 96, 48).astype(np.int64)
"""The text that the fixture's logits are for."""


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """All tensors under Hugging Face's names, none of them fused."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    n_query, n_shared = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    attention_bias = config.get("attention_bias", False)
    biased = {
        "q": attention_bias or config["model_type"] == "qwen2",
        "o": attention_bias,
        "mlp": config.get("mlp_bias", False),
    }
    for layer in range(config["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        for name, shape, bias in [
            (f"{attention}.q_proj", (n_query, hidden), biased["q"]),
            (f"{attention}.k_proj", (n_shared, hidden), biased["q"]),
            (f"{attention}.v_proj", (n_shared, hidden), biased["q"]),
            (f"{attention}.o_proj", (hidden, n_query), biased["o"]),
            (f"{mlp}.gate_proj", (inner, hidden), biased["mlp"]),
            (f"{mlp}.up_proj", (inner, hidden), biased["mlp"]),
            (f"{mlp}.down_proj", (hidden, inner), biased["mlp"]),
        ]:
            found[f"{name}.weight"] = shape
            if bias:
                found[f"{name}.bias"] = shape[:1]
        norms = ["input_layernorm", "post_attention_layernorm"]
        if config["model_type"] in _FOUR_NORMS:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for norm in norms:
            found[f"model.layers.{layer}.{norm}.weight"] = (hidden,)
        if config["model_type"] in ("qwen3", "gemma3_text"):
            found[f"{attention}.q_norm.weight"] = (head,)
            found[f"{attention}.k_norm.weight"] = (head,)
    return found


def weights(config: dict[str, Any]) -> dict[str, Array]:
    """All tensors under Hugging Face's names."""
    tensors = {name: _values(name, shape) for name, shape in shapes(config).items()}
    if config["model_type"] in _FOUR_NORMS:
        return {n: values - 1 if "norm" in n else values for n, values in tensors.items()}
    return fused(tensors, *_PARTS) if config["model_type"] == "phi3" else tensors


_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def fused(tensors: dict[str, Array], *names: str) -> dict[str, Array]:
    """With one matrix of these *names* in place of its parts."""
    whole_of = {part: whole for whole in names for part in _PARTS[whole]}
    found: dict[str, list[Array]] = {}
    for name, values in tensors.items():
        *layer, part, end = name.split(".")
        found.setdefault(".".join([*layer, whole_of.get(part, part), end]), []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def write(folder: Path, config: dict[str, Any], *, dtype: str = "F32", files: int = 1) -> Path:
    """A model folder with *files* files of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json", config["vocab_size"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<1>"}))
    tensors = weights(config)
    if files == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    names = [f"model-{number:05}-of-{files:05}.safetensors" for number in range(1, files + 1)]
    places = {name: names[index % files] for index, name in enumerate(tensors)}
    for name in names:
        part = {tensor: tensors[tensor] for tensor, place in places.items() if place == name}
        write_safetensors(folder / name, part, dtype)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def write_byte_level(folder: Path, config: dict[str, Any], **how: Any) -> Path:
    """A model folder as write() makes it, with a byte-level tokenizer, which llama.cpp has."""
    write(folder, config, **how)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: config["vocab_size"] - 3]
    vocab = {token: place for place, token in enumerate(["<0>", "<1>", *letters, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<0>", "<1>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_safetensors(path: Path, tensors: dict[str, Array], dtype: str = "F32") -> None:
    header, start = {}, 0
    for name, values in tensors.items():
        end = start + values.size * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in tensors.values():
            file.write(_encoded(values, dtype))


def write_tokenizer(path: Path, n_vocab: int) -> None:
    """A tokenizer whose tokens are single characters from the space on; 0 and 1 are special."""
    vocab = {chr(31 + token): token for token in range(2, n_vocab)}
    tokenizer = Tokenizer(models.BPE(vocab={"<0>": 0, "<1>": 1, **vocab}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<0>", "<1>"])
    tokenizer.save(str(path))


def _encoded(values: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def _values(name: str, shape: tuple[int, ...]) -> Array:
    """Made up by the frozen generator of old numpy, in steps that bfloat16 and fp16 hold."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name:
        draw = 1 + draw / 8
    elif name.endswith("bias"):
        draw = draw / 2
    elif "embed" not in name:
        draw = draw * 2 / np.sqrt(shape[-1])
    bits = draw.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return np.asarray(bits.view(np.float32).astype(np.float16), np.float32)
