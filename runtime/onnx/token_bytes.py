"""The exact bytes of each token of a Hugging Face tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from spillover.runtime.errors import ModelError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _Part(Struct):
    """A decoder or pre-tokenizer, alone or in a sequence."""

    type: str = ""
    decoders: list[_Part] = []
    pretokenizers: list[_Part] = []
    replacement: str = ""
    suffix: str = ""
    pattern: dict[str, str] = {}
    content: str = ""


class _Model(Struct):
    byte_fallback: bool | None = None


class _TokenizerJson(Struct):
    decoder: _Part | None = None
    pre_tokenizer: _Part | None = None
    model: _Model = msgspec.field(default_factory=_Model)


def bytes_of_all(tokenizer: Tokenizer, content: bytes) -> list[bytes]:
    """The bytes by token id; control tokens have none. *content* is the tokenizer.json.

    Raises ModelError for an unknown way to encode text in tokens.
    """
    try:
        parsed = msgspec.json.decode(content, type=_TokenizerJson)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"tokenizer.json cannot be understood: {error}") from error
    spell = _speller(parsed)
    pieces = [b""] * tokenizer.get_vocab_size(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    for text, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token >= len(pieces):
            pieces.extend([b""] * (token + 1 - len(pieces)))
        if token not in added:
            pieces[token] = spell(text)
        elif not added[token].special:
            pieces[token] = text.encode()
    return pieces


def _speller(parsed: _TokenizerJson) -> Callable[[str], bytes]:
    parts = _flat(parsed.decoder)
    kinds = {part.type for part in parts}
    if "ByteLevel" in kinds or (not kinds and _is_byte_level(parsed.pre_tokenizer)):
        return _byte_level
    replacements = [
        (part.pattern.get("String", ""), part.content) for part in parts if part.type == "Replace"
    ]
    replacements += [(part.replacement or "▁", " ") for part in parts if part.type == "Metaspace"]
    replacements += [(part.suffix or "</w>", " ") for part in parts if part.type == "BPEDecoder"]
    if not replacements:
        raise ModelError(
            f"the tokenizer uses an unknown decoder ({', '.join(kinds) or 'none'}): "
            "use a model with a byte-level or SentencePiece tokenizer"
        )
    has_bytes = "ByteFallback" in kinds or bool(parsed.model.byte_fallback)
    return lambda text: _sentence_piece(text, replacements, has_bytes=has_bytes)


def _flat(part: _Part | None) -> list[_Part]:
    """The part, or all parts of a sequence, including nested ones."""
    if part is None:
        return []
    inner = part.decoders + part.pretokenizers
    return [leaf for one in inner for leaf in _flat(one)] if inner else [part]


def _is_byte_level(pre_tokenizer: _Part | None) -> bool:
    return any(part.type == "ByteLevel" for part in _flat(pre_tokenizer))


def _byte_level(text: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF.__getitem__, text))
    except KeyError:  # a token that was added as plain text
        return text.encode()


def _sentence_piece(text: str, replacements: list[tuple[str, str]], *, has_bytes: bool) -> bytes:
    if has_bytes and (found := _BYTE.fullmatch(text)):
        return bytes([int(found[1], 16)])
    for old, new in replacements:
        if old:
            text = text.replace(old, new)
    return text.encode()


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's printable character for each byte. Most bytes stand for themselves;
    the others (blanks, controls) are mapped in order from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in shown}
    hidden = sorted(set(range(256)) - set(shown))
    table.update({chr(0x100 + i): byte for i, byte in enumerate(hidden)})
    return table


_BYTE_OF = _byte_of_character()
