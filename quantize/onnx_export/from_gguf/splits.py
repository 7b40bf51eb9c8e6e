"""How text is split into words before byte-level BPE, by the name in tokenizer.ggml.pre.

Each expression splits the pieces of the one before. They give what llama.cpp's own code gives,
which for scripts with upper and lower case beyond ASCII is not always what the families'
tokenizer.json files say.
"""

from __future__ import annotations

from msgspec import Struct

_ENDINGS = "|".join(f"'{word}" for word in ("s", "t", "re", "ve", "m", "ll", "d"))
_ANY_CASE = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"

_GPT2 = rf"{_ENDINGS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ANY_CASE}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_ANY_CASE}|{_WORDS}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_NOT_LOWER, _NOT_UPPER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CAPITALIZED = rf"[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}*{_NOT_UPPER}+"
_CAPITALS = rf"[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}+{_NOT_UPPER}*"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_CAPITALIZED}|{_CAPITALS}|\p{{N}}|{_PUNCTUATION}|{_SPACES}"
_GPT4O = (
    rf"{_CAPITALIZED}(?:{_ANY_CASE})?|{_CAPITALS}(?:{_ANY_CASE})?|\p{{N}}{{1,3}}"
    rf"|{_PUNCTUATION}|{_SPACES}"
)


class Split(Struct, frozen=True):
    """How one kind of vocabulary splits text."""

    expressions: tuple[str, ...]
    whole_words_first: bool = False
    """Whether a piece that is itself a token is used whatever the merges say."""
    adds_bos: bool = False
    """Whether a text begins with BOS where the file does not say."""


_OF_DIGITS = Split((r"\p{N}", _GPT2))
_OF_LLAMA3 = Split((_LLAMA3,), whole_words_first=True, adds_bos=True)
SPLITS: dict[str, Split] = {
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(
        ("gpt-2", "phi-2", "gigachat", "mellum", "mpt", "olmo", "granite-docling", "exaone4"),
        Split((_GPT2,)),
    ),
    **dict.fromkeys(
        ("smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b"),
        _OF_DIGITS,
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "midm-2.0"), _OF_LLAMA3
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx", "chatglm-bpe"), Split((_LLAMA3,))),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open"),
        Split((_QWEN2,)),
    ),
    "qwen35": Split((_QWEN35,)),
    "tekken": Split((_TEKKEN,), whole_words_first=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), Split((_GPT4O,))),
}
