"""A tokenizer.json as the vocabulary of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from tokenizers import Regex, Tokenizer, pre_tokenizers

from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import Value
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.models.small_files import decode_json
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.splits import SPLITS, Split
from spillover.quantize.onnx_export.from_gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from spillover.quantize.sample_texts import TO_TOKENIZE
from spillover.runtime.onnx.settings import read_settings
from spillover.runtime.onnx.tokenizer import OnnxTokenizer, parse_tokenizer, read_tokenizer

_PREFIX = "tokenizer.ggml."
_SPACE = "▁"
_OF_NO_WORTH = -1000.0
"""The score of tokens that no merge makes."""
_FEWEST_ALIKE = 0.7
"""Share of the sample texts that a rule must split as the tokenizer does, to be taken for its."""


class _Added(Struct):
    id: int
    content: str
    special: bool = False
    normalized: bool = False
    """Whether it is looked for in the text after spaces have become underscores."""


class _Bpe(Struct):
    type: str = "BPE"
    vocab: dict[str, int] = {}
    merges: list[str | list[str]] = []
    unk_token: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


class _TokenizerJson(Struct):
    model: msgspec.Raw
    added_tokens: list[_Added] = []
    normalizer: Any = None
    pre_tokenizer: Any = None


class _Kind(Struct):
    type: str = "BPE"


def describe(files: OnnxModelFiles, n_vocab: int) -> dict[str, Value]:
    """The keys of the vocabulary of a model with *n_vocab* embeddings. Raises ExportError for a
    tokenizer that llama.cpp has no like of, ModelError for a damaged one."""
    content = read_tokenizer(files)
    tokenizer = parse_tokenizer(content, files)
    try:
        settings = read_settings(files)
        parsed, bpe = _parsed(content, files.root / "tokenizer.json")
    except ModelFileError as error:
        raise ExportError(str(error)) from error
    found: dict[str, Value] = {}
    if bpe.byte_fallback:
        _put(found, **_sentence_piece(parsed, bpe, n_vocab))
    elif "ByteLevel" in str(parsed.pre_tokenizer):
        _put(found, **_byte_level(parsed, bpe, n_vocab, tokenizer))
    else:
        raise ExportError("the tokenizer's BPE has neither bytes nor a fallback to them")
    reference = OnnxTokenizer(files, settings)
    bos = tokenizer.token_to_id(reference.bos_text) if reference.bos_text else None
    eos = tokenizer.token_to_id(reference.eos_text) if reference.eos_text else None
    ends = [token for token in sorted(settings.eos_ids) if token not in (eos, None)]
    _put(found, add_bos_token=reference.add_bos)
    for name, token in zip(
        ("bos", "eos", "eot", "eom"),
        (bos, eos, *[*ends, None, None][:2]),
        strict=True,
    ):
        if isinstance(token, int) and 0 <= token < n_vocab:
            _put(found, **{f"{name}_token_id": token})
    if settings.chat_template is not None:
        found["tokenizer.chat_template"] = settings.chat_template
    return found


def _parsed(content: bytes, path: Path) -> tuple[_TokenizerJson, _Bpe]:
    """Raises ModelFileError, and ExportError for a tokenizer of another kind."""
    parsed = decode_json(content, _TokenizerJson, path)
    kind = decode_json(parsed.model, _Kind, path).type
    if kind != "BPE":
        raise ExportError(f"the tokenizer is of the kind {kind[:80]!r}: only BPE is supported")
    return parsed, decode_json(parsed.model, _Bpe, path)


def _put(found: dict[str, Value], **values: Value) -> None:
    found.update({f"{_PREFIX}{key}": value for key, value in values.items()})


def _tokens(parsed: _TokenizerJson, bpe: _Bpe, n_vocab: int) -> tuple[list[str], list[int]]:
    """Tokens and their types, by id."""
    tokens = [f"[PAD{token}]" for token in range(n_vocab)]
    types = [UNUSED] * n_vocab
    for text, token in bpe.vocab.items():
        if not 0 <= token < n_vocab:
            raise ExportError(
                f"the tokenizer has the token {token}, and the model {n_vocab} embeddings"
            )
        tokens[token], types[token] = text, NORMAL
    for added in parsed.added_tokens:
        if 0 <= added.id < n_vocab:
            tokens[added.id] = added.content
            types[added.id] = CONTROL if added.special else USER_DEFINED
    return tokens, types


def _byte_level(
    parsed: _TokenizerJson, bpe: _Bpe, n_vocab: int, tokenizer: Tokenizer
) -> dict[str, Value]:
    tokens, types = _tokens(parsed, bpe, n_vocab)
    return {
        "model": "gpt2",
        "pre": _split_of(tokenizer, ignores_merges=bpe.ignore_merges),
        "tokens": tokens,
        "token_type": list[Any](types),
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe.merges],
    }


def _sentence_piece(parsed: _TokenizerJson, bpe: _Bpe, n_vocab: int) -> dict[str, Value]:
    """SentencePiece joins what makes the token with the best score; the earlier a merge, the
    better."""
    tokens, types = _tokens(parsed, bpe, n_vocab)
    added = {token.content for token in parsed.added_tokens}
    normalized = {token.content for token in parsed.added_tokens if token.normalized}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(bpe.merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    scores = [_OF_NO_WORTH] * n_vocab
    unknown = bpe.vocab.get(bpe.unk_token) if bpe.unk_token else None
    for token, text in enumerate(tokens):
        if text in ranks:
            scores[token] = -float(ranks[text])
        if text in normalized:
            tokens[token] = text.replace(_SPACE, " ")
        elif len(text) == 6 and text.startswith("<0x") and text not in added:
            types[token] = BYTE
    found: dict[str, Value] = {}
    if unknown is not None:
        types[unknown] = UNKNOWN
        found["unknown_token_id"] = unknown
    return {
        **found,
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "token_type": list[Any](types),
        "scores": list[Any](scores),
        "add_space_prefix": _adds_space(parsed),
    }


def _adds_space(parsed: _TokenizerJson) -> bool:
    """Whether a text begins as if after a space."""
    if "Prepend" in str(parsed.normalizer):
        return True
    steps = parsed.pre_tokenizer or {}
    every = steps.get("pretokenizers", [steps]) if isinstance(steps, dict) else []
    return any(
        step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never"
        for step in every
        if isinstance(step, dict)
    )


def _split_of(tokenizer: Tokenizer, *, ignores_merges: bool) -> str:
    """llama.cpp's name of the rule that splits text into words as *tokenizer* does, or nearly."""
    own = tokenizer.pre_tokenizer
    wanted = [_pieces(own, text) for text in TO_TOKENIZE]
    found: dict[str, float] = {}
    seen: set[Split] = set()
    for name, split in SPLITS.items():
        if split in seen or split.whole_words_first != ignores_merges:
            continue
        seen.add(split)
        rule = _pre_tokenizer(split)
        alike = [
            _pieces(rule, text) == pieces for text, pieces in zip(TO_TOKENIZE, wanted, strict=True)
        ]
        found[name] = sum(alike) / len(alike)
    best = max(found, key=lambda name: found[name], default="")
    if found.get(best, 0.0) < _FEWEST_ALIKE:
        raise ExportError(
            "the tokenizer splits text into words by a rule that is not supported: "
            f"{', '.join(sorted(SPLITS))} are"
        )
    return best


def _pieces(rule: Any, text: str) -> list[str]:
    return [piece for piece, _ in rule.pre_tokenize_str(text)]


def _pre_tokenizer(split: Split) -> Any:
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(text), behavior="isolated") for text in split.expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
