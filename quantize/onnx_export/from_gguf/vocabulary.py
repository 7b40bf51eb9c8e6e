"""The vocabulary of a GGUF file, checked."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spillover.models.gguf_header import GgufHeader
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.splits import SPLITS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types (llama.h, formerly llama_token_attr)."""


class GgufVocabulary(Struct, frozen=True, kw_only=True):
    """Tokens by id, and how text is split into them."""

    model: str
    """gpt2: byte-level BPE; llama: SentencePiece BPE."""
    split: str
    """How text is split before BPE: tokenizer.ggml.pre."""
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    bos_id: int | None
    eos_id: int | None
    end_ids: tuple[int, ...]
    """All tokens that end an answer."""
    unknown_id: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strips_after_special: bool
    """Whether spaces after a special token are dropped."""
    chat_template: str | None

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.tokens[token]


def read_vocabulary(header: GgufHeader) -> GgufVocabulary:
    """Raises ExportError when it is missing or inconsistent."""
    keys = _Keys(header)
    tokens: list[str] = keys.array("tokens", str)
    if not tokens:
        raise ExportError("the GGUF file has no vocabulary")
    types = keys.array("token_type", int) or [NORMAL] * len(tokens)
    scores = keys.array("scores", float) or [0.0] * len(tokens)
    if len(types) != len(tokens) or len(scores) != len(tokens):
        raise ExportError("the GGUF file's vocabulary is damaged: its arrays differ in length")
    model, split = keys.text("model"), keys.text("pre") or "default"
    adds_bos = model == "llama" or (split in SPLITS and SPLITS[split].adds_bos)
    end_ids = [keys.token(f"{name}_token_id", len(tokens)) for name in ("eos", "eot", "eom")]
    return GgufVocabulary(
        model=model,
        split=split,
        tokens=tokens,
        types=types,
        merges=keys.array("merges", str),
        scores=scores,
        bos_id=keys.token("bos_token_id", len(tokens)),
        eos_id=end_ids[0],
        end_ids=tuple(dict.fromkeys(token for token in end_ids if token is not None)),
        unknown_id=keys.token("unknown_token_id", len(tokens)),
        add_bos=keys.flag("add_bos_token", adds_bos),
        add_eos=keys.flag("add_eos_token", False),
        add_space_prefix=keys.flag("add_space_prefix", True),
        strips_after_special=_is_phi3(header),
        chat_template=_template(header),
    )


def _is_phi3(header: GgufHeader) -> bool:
    # No key says what spaces a token takes with it; llama.cpp goes by the model's name.
    name = str(header.metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _template(header: GgufHeader) -> str | None:
    value = header.metadata.get("tokenizer.chat_template")
    return value if isinstance(value, str) else None


class _Keys:
    """The metadata under tokenizer.ggml."""

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata

    def _value(self, name: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}")

    def array(self, name: str, kind: type) -> list[Any]:
        value = self._value(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise ExportError(
                f"the GGUF file's tokenizer.ggml.{name} is not a list of the right type"
            )
        return value

    def text(self, name: str) -> str:
        value = self._value(name)
        return value if isinstance(value, str) else ""

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name)
        return value if isinstance(value, bool) else default

    def token(self, name: str, n_tokens: int) -> int | None:
        value = self._value(name)
        return value if isinstance(value, int) and 0 <= value < n_tokens else None
