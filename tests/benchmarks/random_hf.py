"""A Hugging Face folder of realistic shape with random weights: values do not matter to speed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from tests.storyteller import STORYTELLER

N_VOCAB, N_HIDDEN, N_INNER, N_LAYER, N_HEAD, N_HEAD_KV, N_CTX = (
    151_936, 896, 4864, 24, 14, 2, 4096,
)  # fmt: skip
"""Qwen2.5-0.5B's shape."""

_CONFIG = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": N_VOCAB,
    "hidden_size": N_HIDDEN,
    "intermediate_size": N_INNER,
    "num_hidden_layers": N_LAYER,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD_KV,
    "hidden_act": "silu",
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def write_hf(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    _write_tokenizer(folder)
    shutil.copy(STORYTELLER / "tokenizer_config.json", folder)
    _write_safetensors(folder / "model.safetensors")


def _write_tokenizer(folder: Path) -> None:
    """The bundled model's, with as many tokens more that no text has."""
    tokenizer = json.loads((STORYTELLER / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for token in range(len(vocabulary), N_VOCAB):
        vocabulary[f"unused{token}"] = token
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def _shapes() -> dict[str, tuple[int, ...]]:
    n_per_head = N_HIDDEN // N_HEAD
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (N_VOCAB, N_HIDDEN),
        "model.norm.weight": (N_HIDDEN,),
    }
    for layer in range(N_LAYER):
        prefix = f"model.layers.{layer}"
        for name, n_out in (("q", N_HIDDEN), ("k", N_HEAD_KV * n_per_head),
                            ("v", N_HEAD_KV * n_per_head)):  # fmt: skip
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (n_out, N_HIDDEN)
            shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (n_out,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (N_HIDDEN, N_HIDDEN)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (N_INNER, N_HIDDEN)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (N_INNER, N_HIDDEN)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (N_HIDDEN, N_INNER)
        shapes[f"{prefix}.input_layernorm.weight"] = (N_HIDDEN,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (N_HIDDEN,)
    return shapes


def _write_safetensors(path: Path) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in _shapes().items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape in _shapes().items():
            file.write(_values(random, name, shape).astype(np.float16).tobytes())


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    if len(shape) > 1:
        return random.standard_normal(shape, dtype=np.float32) * shape[-1] ** -0.5
    return np.zeros(shape) if name.endswith("bias") else np.ones(shape)


def exported(folder: Path, options: ExportOptions, name: str) -> Path:
    """The ONNX folder *name* in *folder*, made when it is not there yet."""
    target = folder / name
    if not target.exists():
        source = folder / "random-0.5b-hf"
        if not source.exists():
            write_hf(source)
        export(source, target, options, lambda n_done, n_all: None)
    return target
