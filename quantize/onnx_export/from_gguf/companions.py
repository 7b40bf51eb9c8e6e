"""The files beside the graph, from the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_gguf.tokenizer import build_tokenizer
from spillover.quantize.onnx_export.from_gguf.vocabulary import GgufVocabulary, read_vocabulary
from spillover.quantize.onnx_export.spec import ModelSpec

_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def write_gguf_companions(source: GgufSource, folder: Path) -> list[str]:
    """Write config.json, the tokenizer and its settings; return notes for the user.

    Raises ExportError.
    """
    vocabulary = read_vocabulary(source.header)
    tokenizer, notes = build_tokenizer(vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(vocabulary, source.spec))
    write_config(source, folder)
    return notes


def write_config(source: GgufSource, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    vocabulary = read_vocabulary(source.header)
    ids = {"bos_token_id": vocabulary.bos_id, "eos_token_id": list(vocabulary.end_ids)}
    known = {key: value for key, value in ids.items() if value not in (None, [])}
    _write(folder / "config.json", {**_config(source.spec), **known})
    _write(folder / "generation_config.json", known)


def _config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "model_type": spec.architecture,
        "vocab_size": spec.n_vocab,
        "hidden_size": spec.n_hidden,
        "intermediate_size": spec.n_inner,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.n_head_kv,
        "head_dim": spec.n_per_head,
        "hidden_act": _ACTIVATIONS[spec.family.activation],
        "max_position_embeddings": spec.n_ctx,
        "rms_norm_eps": spec.norm_epsilon,
        "tie_word_embeddings": spec.is_tied,
    }


def _tokenizer_config(vocabulary: GgufVocabulary, spec: ModelSpec) -> dict[str, Any]:
    config = {
        "bos_token": vocabulary.text(vocabulary.bos_id),
        "eos_token": vocabulary.text(vocabulary.eos_id),
        "unk_token": vocabulary.text(vocabulary.unknown_id),
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "chat_template": vocabulary.chat_template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec.n_ctx,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {key: value for key, value in config.items() if value is not None}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
