"""Tiny text encoders with made-up weights, as GGUF and ONNX, and what they should compute."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("dog", "cat", "house", "tree", "the", "a", "runs", "sleeps", "sea", "blue")
VOCABULARY = (*SPECIAL, *WORDS, *LETTERS[1:], *(f"##{letter}" for letter in LETTERS))
"""WordPiece's; "a" is a word."""


def weights(config: dict[str, Any] = CONFIG, *, n_labels: int = 0) -> Weights:
    """Under Hugging Face's names without "bert."; *n_labels*: with a head that ranks."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "embeddings.LayerNorm": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes[f"{prefix}.attention.self.{name}"] = (hidden, hidden)
        shapes[f"{prefix}.attention.output.dense"] = (hidden, hidden)
        shapes[f"{prefix}.attention.output.LayerNorm"] = (hidden,)
        shapes[f"{prefix}.intermediate.dense"] = (inner, hidden)
        shapes[f"{prefix}.output.dense"] = (hidden, inner)
        shapes[f"{prefix}.output.LayerNorm"] = (hidden,)
    if n_labels:
        shapes["pooler.dense"] = (hidden, hidden)
        shapes["classifier"] = (n_labels, hidden)
    found: Weights = {}
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            found[name] = _made_up(name, shape)
        else:
            found[f"{name}.weight"] = _made_up(f"{name}.weight", shape)
            found[f"{name}.bias"] = _made_up(f"{name}.bias", shape[:1])
    return found


def _made_up(name: str, shape: tuple[int, ...]) -> Array:
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "LayerNorm" in name and name.endswith("weight"):
        draw = 1 + draw / 8
    elif name.endswith("bias"):
        draw = draw / 4
    elif "embeddings" not in name:
        draw = draw * 1.5 / np.sqrt(shape[-1])
    return draw.astype(np.float32)


# --- what it should compute ---------------------------------------------------------------------


def hidden_states(
    given: Weights, ids: list[int], config: dict[str, Any] = CONFIG, types: list[int] | None = None
) -> npt.NDArray[np.float64]:
    """The vectors of all tokens, (n_tokens, n_values), in double precision."""
    eps, n_heads = config["layer_norm_eps"], config["num_attention_heads"]
    w = {name: values.astype(np.float64) for name, values in given.items()}

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + w["embeddings.token_type_embeddings.weight"][types or [0] * len(ids)]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{prefix}.attention.self.{name}")
            .reshape(len(ids), n_heads, -1)
            .swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        seen = seen.swapaxes(0, 1).reshape(len(ids), -1)
        out = f"{prefix}.attention.output"
        x = norm(x + linear(seen, f"{out}.dense"), f"{out}.LayerNorm")
        inner = _gelu(linear(x, f"{prefix}.intermediate.dense"))
        x = norm(x + linear(inner, f"{prefix}.output.dense"), f"{prefix}.output.LayerNorm")
    return np.asarray(x)


def _gelu(x: Any) -> Any:
    """The tanh form, which differs from the exact one by less than 0.001."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def scored(given: Weights, states: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logits of the head that ranks."""
    pooled = np.tanh(states[0] @ given["pooler.dense.weight"].T + given["pooler.dense.bias"])
    return np.asarray(pooled @ given["classifier.weight"].T + given["classifier.bias"])


# --- tokenizer ----------------------------------------------------------------------------------


def tokenizer(vocabulary: tuple[str, ...] = VOCABULARY) -> Tokenizer:
    """BERT's, with its special tokens; it cuts texts at 8 tokens, as such files often say."""
    ids = {token: i for i, token in enumerate(vocabulary)}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(SPECIAL))
    cls, sep = ids["[CLS]"], ids["[SEP]"]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made


def ids_of(text: str) -> list[int]:
    """The ids of *text*, whole, with its special tokens."""
    made = tokenizer()
    made.no_truncation()
    made.no_padding()
    ids: list[int] = made.encode(text).ids
    return ids


# --- files --------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}


def write_gguf(
    path: Path,
    given: Weights,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    config: dict[str, Any] = CONFIG,
    vocabulary: tuple[str, ...] = VOCABULARY,
) -> Path:
    """A whole model."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([_piece(token) for token in vocabulary])
    writer.add_token_types([3 if token in SPECIAL else 1 for token in vocabulary])
    ids = {token: i for i, token in enumerate(vocabulary)}
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_mask_token_id(ids["[MASK]"])
    for name, values in given.items():
        stem, end = name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("encoder.layer."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        writer.add_tensor(f"{prefix}{_GGUF_NAMES[stem]}.{end}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _piece(token: str) -> str:
    """As llama.cpp writes a token of WordPiece."""
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


class _Graph:
    """Collects the nodes of an encoder."""

    def __init__(self, given: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = [numpy_helper.from_array(values, name) for name, values in given.items()]

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def linear(self, x: str, name: str) -> str:
        turned = self.add("Transpose", f"{name}.weight", perm=[1, 0])
        return self.add("Add", self.add("MatMul", x, turned), f"{name}.bias")

    def norm(self, x: str, name: str, eps: float) -> str:
        inputs = (x, f"{name}.weight", f"{name}.bias")
        return self.add("LayerNormalization", *inputs, axis=-1, epsilon=eps)


def write_onnx(
    folder: Path,
    given: Weights,
    config: dict[str, Any] = CONFIG,
    vocabulary: tuple[str, ...] = VOCABULARY,
    *,
    pools: bool = False,
    has_segments: bool = True,
) -> Path:
    """A folder with graph, tokenizer and settings. The graph ends with the tokens' vectors, with
    their mean (*pools*), or with scores where the weights have a head."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = _Graph(given)
    n_heads, hidden = config["num_attention_heads"], config["hidden_size"]
    eps = config["layer_norm_eps"]
    width = graph.add("Slice", graph.add("Shape", "input_ids"), *map(graph.constant, ([1], [2])))
    rows = graph.add("Slice", "embeddings.position_embeddings.weight", graph.constant([0]), width)
    x = graph.add("Gather", "embeddings.word_embeddings.weight", "input_ids")
    x = graph.add("Add", x, rows)
    segments = "token_type_ids"
    if not has_segments:
        segments = graph.add("Mul", "input_ids", graph.constant(np.int64(0)))
    types = graph.add("Gather", "embeddings.token_type_embeddings.weight", segments)
    x = graph.norm(graph.add("Add", x, types), "embeddings.LayerNorm", eps)
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    hole = graph.add("Sub", graph.constant(np.float32(1)), mask)
    hole = graph.add("Mul", hole, graph.constant(np.float32(-1e9)))
    hole = graph.add("Unsqueeze", hole, graph.constant([1, 2]))
    split, joined = graph.constant([0, 0, n_heads, -1]), graph.constant([0, 0, hidden])
    scale = graph.constant(np.float32((hidden // n_heads) ** -0.5))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        q, k, v = (
            graph.add("Reshape", graph.linear(x, f"{prefix}.attention.self.{name}"), split)
            for name in ("query", "key", "value")
        )
        q, v = (graph.add("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
        k = graph.add("Transpose", k, perm=[0, 2, 3, 1])
        scores = graph.add("Mul", graph.add("MatMul", q, k), scale)
        scores = graph.add("Softmax", graph.add("Add", scores, hole), axis=-1)
        seen = graph.add("Transpose", graph.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        seen = graph.add("Reshape", seen, joined)
        out = f"{prefix}.attention.output"
        seen = graph.linear(seen, f"{out}.dense")
        x = graph.norm(graph.add("Add", x, seen), f"{out}.LayerNorm", eps)
        inner = graph.linear(x, f"{prefix}.intermediate.dense")
        half = graph.add("Mul", inner, graph.constant(np.float32(0.5)))
        error = graph.add("Erf", graph.add("Mul", inner, graph.constant(np.float32(0.5**0.5))))
        inner = graph.add("Mul", half, graph.add("Add", error, graph.constant(np.float32(1))))
        inner = graph.linear(inner, f"{prefix}.output.dense")
        x = graph.norm(graph.add("Add", x, inner), f"{prefix}.output.LayerNorm", eps)
    name, shape = "last_hidden_state", ["rows", "positions", hidden]
    if "classifier.weight" in given:
        name, shape = "logits", ["rows", len(given["classifier.bias"])]
        first = graph.add("Gather", x, graph.constant(np.int64(0)), axis=1)
        pooled = graph.add("Tanh", graph.linear(first, "pooler.dense"))
        x = graph.linear(pooled, "classifier")
    elif pools:
        name, shape = "sentence_embedding", ["rows", hidden]
        column = graph.add("Unsqueeze", mask, graph.constant([2]))
        sums = graph.add("ReduceSum", graph.add("Mul", x, column), graph.constant([1]), keepdims=0)
        counts = graph.add("ReduceSum", mask, graph.constant([1]), keepdims=1)
        x = graph.add("Div", sums, counts)
    graph.nodes.append(helper.make_node("Identity", [x], [name]))
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if has_segments else [])]
    made = helper.make_graph(
        graph.nodes,
        "encoder",
        [
            helper.make_tensor_value_info(i, TensorProto.INT64, ["rows", "positions"])
            for i in inputs
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        graph.tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(vocabulary)}))
    tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    return folder


def write_pooling(folder: Path, mode: str, *, normalizes: bool = True) -> None:
    """The files of sentence-transformers beside a graph."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalizes else [])]
    modules = [
        {"idx": i, "path": "" if i == 0 else f"{i}_{step}", "type": f"sentence_transformers.{step}"}
        for i, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    config = {f"pooling_mode_{each}": each == mode for each in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
