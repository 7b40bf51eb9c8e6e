"""Turns a GGUF vocabulary into a tokenizer of Hugging Face's library."""

from __future__ import annotations

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.splits import SPLITS
from spillover.quantize.onnx_export.from_gguf.vocabulary import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    GgufVocabulary,
)

_NEVER_STRIPPED = {"<unk>", "<s>", "<|endoftext|>"}


def build_tokenizer(vocabulary: GgufVocabulary) -> tuple[Tokenizer, list[str]]:
    """The tokenizer, and what the user should know. Raises ExportError."""
    builders = {"gpt2": _byte_level, "llama": _sentence_piece}
    if vocabulary.model not in builders:
        raise ExportError(
            f"the vocabulary's model {vocabulary.model!r} is not supported (gpt2 and llama are): "
            "give the original model's folder with --tokenizer"
        )
    notes = []
    if vocabulary.model == "gpt2" and vocabulary.split == "default":
        notes.append("the file does not say how to split text into words: llama.cpp's rule is used")
    tokenizer = builders[vocabulary.model](vocabulary)
    _add_special_tokens(tokenizer, vocabulary)
    _add_surroundings(tokenizer, vocabulary)
    return tokenizer, notes


def _byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [_pair(merge) for merge in vocabulary.merges]
    if any(
        left + right not in ids or left not in ids or right not in ids for left, right in merges
    ):
        raise ExportError("the GGUF file's vocabulary is damaged: a merge produces no token")
    split = SPLITS.get(vocabulary.split)
    if split is None:
        raise ExportError(
            f"the pre-tokenizer {vocabulary.split[:80]!r} is not supported "
            f"({', '.join(sorted(SPLITS))} are): give the original model's folder with --tokenizer"
        )
    model = models.BPE(vocab=ids, merges=merges, ignore_merges=split.whole_words_first)
    tokenizer = Tokenizer(model)
    # No Unicode normalization: llama.cpp has none.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(text), behavior="isolated") for text in split.expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(vocabulary: GgufVocabulary) -> Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown = vocabulary.unknown_id
    if unknown is None and UNKNOWN in vocabulary.types:
        unknown = vocabulary.types.index(UNKNOWN)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=_merges_by_score(vocabulary, ids),
            unk_token=vocabulary.text(unknown),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Replace(" ", "▁")]
    prefix = [normalizers.Prepend("▁")] if vocabulary.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, *spaces])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence([*steps, *strip])
    return tokenizer


def _merges_by_score(vocabulary: GgufVocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose token has the best score, so every way to form a
    token is a merge, best token first."""
    found = []
    for token, kind, score in zip(
        vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True
    ):
        if kind not in (NORMAL, USER_DEFINED):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-score, ids[token], ids[left], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _pair(merge: str) -> tuple[str, str]:
    # A token of byte-level BPE has no space; SentencePiece's may begin with one.
    left, _, right = merge.partition(" ") if merge[:1] != " " else merge[1:].partition(" ")
    return left, right


def _add_special_tokens(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind not in (CONTROL, UNKNOWN, USER_DEFINED):
            continue
        added = AddedToken(
            token,
            special=kind != USER_DEFINED,
            normalized=False,
            rstrip=vocabulary.strips_after_special and token not in _NEVER_STRIPPED,
        )
        add = tokenizer.add_tokens if kind == USER_DEFINED else tokenizer.add_special_tokens
        add([added])


def _add_surroundings(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Adds BOS before and EOS after a text, if the model wants them."""
    bos = vocabulary.bos_id if vocabulary.add_bos else None
    eos = vocabulary.eos_id if vocabulary.add_eos else None
    known = [(str(vocabulary.text(token)), token) for token in (bos, eos) if token is not None]
    if not known:
        return
    before, after = vocabulary.text(bos), vocabulary.text(eos)
    single = [*([before] if before else []), "$A", *([after] if after else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, "$B"], special_tokens=known
    )
