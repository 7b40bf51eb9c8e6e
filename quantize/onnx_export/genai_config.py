"""genai_config.json, which describes a model folder to onnxruntime-genai."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.spec import ModelSpec


def write_genai_config(spec: ModelSpec, folder: Path, *, n_ctx: int) -> None:
    """Write it for a graph with the genai interface. Token ids come from the folder's files.

    Raises ExportError for a file that is damaged, and for a model that names no end of a text.
    """
    config = {"model": _model(spec, folder, n_ctx), "search": _search(n_ctx)}
    (folder / "genai_config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))


def _model(spec: ModelSpec, folder: Path, n_ctx: int) -> dict[str, Any]:
    files = [_read(folder / name) for name in ("config.json", "generation_config.json")]
    ids = {name: value for file in files for name, value in file.items() if value is not None}
    eos, bos, pad = (ids.get(f"{kind}_token_id") for kind in ("eos", "bos", "pad"))
    if eos is None or eos == []:
        raise ExportError(
            "config.json names no eos_token_id, so that onnxruntime-genai would end no answer: add "
            "it, or export with --interface ragged"
        )
    first_eos = eos[0] if isinstance(eos, list) else eos
    return {
        "bos_token_id": first_eos if bos is None else bos,
        "context_length": n_ctx,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": spec.n_per_head,
            "hidden_size": spec.n_hidden,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
            "num_attention_heads": spec.n_head,
            "num_hidden_layers": len(spec.layers),
            "num_key_value_heads": spec.n_head_kv,
        },
        "eos_token_id": eos,
        "pad_token_id": first_eos if pad is None else pad,
        "type": spec.architecture,
        "vocab_size": spec.n_vocab,
    }


def _search(n_ctx: int) -> dict[str, Any]:
    return {"max_length": n_ctx, "past_present_share_buffer": True, "do_sample": False}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExportError(f"{path.name} cannot be read: {error}") from error
