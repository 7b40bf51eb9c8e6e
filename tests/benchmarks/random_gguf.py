"""Makes a GGUF of realistic shape with random weights: values do not matter to speed.

    python -m tests.benchmarks.random_gguf FOLDER [--f16]

--f16 writes the file of 1.1B parameters that quantizing is measured with (2.2 GB).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from msgspec import Struct

from spillover.models.catalogue import default_model
from spillover.runtime.llama.library import lib

_Q4_K_M = 15
_NORMAL = 1


class Shape(Struct, frozen=True, kw_only=True):
    """Sizes of a Llama, and how to call it."""

    name: str
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    is_tied: bool = False


LLAMA = Shape(
    name="random-0.4b", n_embd=1024, n_layer=24, n_head=16, n_head_kv=4, n_ff=4096,
    n_vocab=32_768, n_ctx=8192,
)  # fmt: skip
QWEN_HALF_B = Shape(
    name="random-0.5b", n_embd=896, n_layer=24, n_head=14, n_head_kv=2, n_ff=4864,
    n_vocab=151_936, n_ctx=8192, is_tied=True,
)  # fmt: skip

LLAMA_1B = Shape(
    name="random-1.1b", n_embd=2048, n_layer=22, n_head=32, n_head_kv=4, n_ff=5632,
    n_vocab=32_768, n_ctx=2048,
)  # fmt: skip


def write_f16(path: Path, shape: Shape) -> None:
    """A Llama of that shape; the tokenizer is the bundled model's, padded."""
    source = gguf.GGUFReader(default_model().path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    _copy_tokenizer(source, writer, shape.n_vocab)
    random = np.random.default_rng(0)
    for name, sizes in _tensors(shape):
        if len(sizes) == 1:
            writer.add_tensor(name, np.ones(sizes, dtype=np.float32))
        else:
            values = random.standard_normal(sizes, dtype=np.float32) * sizes[-1] ** -0.5
            writer.add_tensor(name, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter, n_vocab: int) -> None:
    fields = source.fields
    tokens = list(fields["tokenizer.ggml.tokens"].contents())
    types = list(fields["tokenizer.ggml.token_type"].contents())
    n_pad = n_vocab - len(tokens)
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


def _tensors(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    n_embd, n_ff = shape.n_embd, shape.n_ff
    n_kv = n_embd // shape.n_head * shape.n_head_kv
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (shape.n_vocab, n_embd)),
        ("output_norm.weight", (n_embd,)),
    ]
    if not shape.is_tied:
        tensors.append(("output.weight", (shape.n_vocab, n_embd)))
    for i in range(shape.n_layer):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (n_embd,)),
            (f"blk.{i}.attn_q.weight", (n_embd, n_embd)),
            (f"blk.{i}.attn_k.weight", (n_kv, n_embd)),
            (f"blk.{i}.attn_v.weight", (n_kv, n_embd)),
            (f"blk.{i}.attn_output.weight", (n_embd, n_embd)),
            (f"blk.{i}.ffn_norm.weight", (n_embd,)),
            (f"blk.{i}.ffn_gate.weight", (n_ff, n_embd)),
            (f"blk.{i}.ffn_up.weight", (n_ff, n_embd)),
            (f"blk.{i}.ffn_down.weight", (n_embd, n_ff)),
        ]
    return tensors


def quantized(folder: Path, shape: Shape = LLAMA) -> Path:
    """The Q4_K_M file in *folder*, made when it is not there yet."""
    path = folder / f"{shape.name}-Q4_K_M.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / f"{shape.name}-F16.gguf"
    write_f16(full, shape)
    params = lib.llama_model_quantize_default_params()
    params.ftype = _Q4_K_M
    if lib.llama_model_quantize(str(full).encode(), str(path).encode(), params):
        raise SystemExit("llama.cpp could not quantize the file")
    full.unlink()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--f16", action="store_true")
    given = parser.parse_args()
    if given.f16:
        write_f16(given.folder / f"{LLAMA_1B.name}-F16.gguf", LLAMA_1B)
    else:
        print(quantized(given.folder))
