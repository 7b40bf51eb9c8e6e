"""Makes a GGUF of realistic shape with random weights: values do not matter to speed."""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib
import numpy as np

from spillover.models.catalogue import default_model

N_EMBD, N_LAYER, N_HEAD, N_HEAD_KV, N_FF, N_VOCAB, N_CTX = 1024, 24, 16, 4, 4096, 32_768, 8192
_Q4_K_M = 15
_NORMAL = 1


def write_f16(path: Path) -> None:
    """A Llama of 0.4B parameters; the tokenizer is the bundled model's, padded."""
    source = gguf.GGUFReader(default_model().path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    _copy_tokenizer(source, writer)
    random = np.random.default_rng(0)
    for name, shape in _tensors():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, dtype=np.float32))
        else:
            values = random.standard_normal(shape, dtype=np.float32) * shape[-1] ** -0.5
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    fields = source.fields
    tokens = list(fields["tokenizer.ggml.tokens"].contents())
    types = list(fields["tokenizer.ggml.token_type"].contents())
    n_pad = N_VOCAB - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # Each token has a text of its own, so that each one sampled makes an event.
    writer.add_token_list(tokens + [f"w{i}" for i in range(n_pad)])
    writer.add_token_types(types + [_NORMAL] * n_pad)
    writer.add_token_merges(list(fields["tokenizer.ggml.merges"].contents()))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(fields["tokenizer.chat_template"].contents())


def _tensors() -> list[tuple[str, tuple[int, ...]]]:
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (N_VOCAB, N_EMBD)),
        ("output_norm.weight", (N_EMBD,)),
        ("output.weight", (N_VOCAB, N_EMBD)),
    ]
    for i in range(N_LAYER):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (N_EMBD,)),
            (f"blk.{i}.attn_q.weight", (N_EMBD, N_EMBD)),
            (f"blk.{i}.attn_k.weight", (n_kv, N_EMBD)),
            (f"blk.{i}.attn_v.weight", (n_kv, N_EMBD)),
            (f"blk.{i}.attn_output.weight", (N_EMBD, N_EMBD)),
            (f"blk.{i}.ffn_norm.weight", (N_EMBD,)),
            (f"blk.{i}.ffn_gate.weight", (N_FF, N_EMBD)),
            (f"blk.{i}.ffn_up.weight", (N_FF, N_EMBD)),
            (f"blk.{i}.ffn_down.weight", (N_EMBD, N_FF)),
        ]
    return tensors


def quantized(folder: Path) -> Path:
    """The Q4_K_M file in *folder*, made when it is not there yet."""
    path = folder / "random-0.4b-Q4_K_M.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / "random-0.4b-F16.gguf"
    write_f16(full)
    params = lib.llama_model_quantize_default_params()
    params.ftype = _Q4_K_M
    if lib.llama_model_quantize(str(full).encode(), str(path).encode(), params):
        raise SystemExit("llama.cpp could not quantize the file")
    full.unlink()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(quantized(parser.parse_args().folder))
