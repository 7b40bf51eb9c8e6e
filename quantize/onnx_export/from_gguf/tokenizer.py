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
from spillover.quantize.onnx_export.from_gguf.vocabulary import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    GgufVocabulary,
)

# The regular expressions of the families' own tokenizer.json files.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3", "tekken"}
"""A piece that is itself a token is used whatever the merges say."""
_GPT2 = {"gpt-2", "gpt2", "default"}


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
        notes.append("the file does not say how to split text into words: GPT-2's rule is used")
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
    model = models.BPE(
        vocab=ids, merges=merges, ignore_merges=vocabulary.split in _WHOLE_WORDS_FIRST
    )
    tokenizer = Tokenizer(model)
    if vocabulary.split in ("qwen2", "deepseek-r1-qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitter(vocabulary.split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _splitter(split: str) -> pre_tokenizers.PreTokenizer:
    if split in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if split not in _SPLITS:
        raise ExportError(
            f"the pre-tokenizer {split!r} is not supported "
            f"({', '.join(sorted({*_SPLITS, *_GPT2, 'smollm'}))} are): give the original model's "
            "folder with --tokenizer"
        )
    pieces = pre_tokenizers.Split(Regex(_SPLITS[split]), behavior="isolated")
    unsplit = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pieces, unsplit])


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
        if kind in (CONTROL, UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])


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
