"""What the JSON files beside an ONNX graph say about the model. Each of them may be missing."""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from spillover.models.onnx_folder import OnnxModelFiles
from spillover.models.small_files import decode_json

_N_CTX_UNKNOWN = 4096
_LONGEST_CONTEXT = 1 << 24
"""model_max_length is 1e30, or -1, where it was unknown."""

_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Id: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]

_T = TypeVar("_T")


class _TokenText(Struct):
    content: str


class _NamedTemplate(Struct):
    name: str
    template: str


class _Config(Struct):
    """config.json and generation_config.json."""

    model_type: str | None = None
    max_position_embeddings: _Count | None = None
    n_positions: _Count | None = None
    vocab_size: _Count | None = None
    bos_token_id: _Id | None = None
    eos_token_id: _Id | list[_Id] | None = None


class _TokenizerConfig(Struct):
    bos_token: str | _TokenText | None = None
    eos_token: str | _TokenText | None = None
    add_bos_token: bool | None = None
    model_max_length: float | None = None
    chat_template: str | list[_NamedTemplate] | None = None


class _GenaiModel(Struct):
    type: str | None = None
    context_length: _Count | None = None
    bos_token_id: _Id | None = None
    eos_token_id: _Id | list[_Id] | None = None


class _GenaiConfig(Struct):
    model: _GenaiModel = msgspec.field(default_factory=_GenaiModel)


class ModelSettings(Struct, frozen=True, kw_only=True):
    """The model as its files describe it; the graph overrides them."""

    architecture: str
    n_ctx_train: int
    n_vocab: int | None
    bos_id: int | None
    eos_ids: frozenset[int]
    """The union over all files."""
    bos_text: str
    eos_text: str
    add_bos: bool | None
    """None: the tokenizer decides."""
    chat_template: str | None


def read_settings(files: OnnxModelFiles) -> ModelSettings:
    """Read the files that are there. Raises ModelFileError."""
    config = _read(files, "config.json", _Config)
    generation = _read(files, "generation_config.json", _Config)
    tokenizer = _read(files, "tokenizer_config.json", _TokenizerConfig)
    special = _read(files, "special_tokens_map.json", _TokenizerConfig)
    genai = _read(files, "genai_config.json", _GenaiConfig).model
    n_ctx = config.max_position_embeddings or config.n_positions or genai.context_length
    if n_ctx is None and 1 <= (tokenizer.model_max_length or 0) < _LONGEST_CONTEXT:
        n_ctx = int(tokenizer.model_max_length or 0)
    bos_ids = (genai.bos_token_id, generation.bos_token_id, config.bos_token_id)
    return ModelSettings(
        architecture=config.model_type or genai.type or "unknown",
        n_ctx_train=n_ctx or _N_CTX_UNKNOWN,
        n_vocab=config.vocab_size,
        bos_id=next((i for i in bos_ids if i is not None and i >= 0), None),
        eos_ids=_ids(genai.eos_token_id, generation.eos_token_id, config.eos_token_id),
        bos_text=_text(tokenizer.bos_token) or _text(special.bos_token),
        eos_text=_text(tokenizer.eos_token) or _text(special.eos_token),
        add_bos=tokenizer.add_bos_token,
        chat_template=_template(files, tokenizer),
    )


def _read(files: OnnxModelFiles, name: str, kind: type[_T]) -> _T:
    return decode_json(files.read(name) or b"{}", kind, files.root / name)


def _ids(*found: int | list[int] | None) -> frozenset[int]:
    """Those of *found*; a negative number stands for none."""
    ids: set[int] = set()
    for value in found:
        ids.update([value] if isinstance(value, int) else value or ())
    return frozenset(i for i in ids if i >= 0)


def _text(token: str | _TokenText | None) -> str:
    return token.content if isinstance(token, _TokenText) else token or ""


def _template(files: OnnxModelFiles, tokenizer: _TokenizerConfig) -> str | None:
    """The chat template from one of three places: a file of its own, the tokenizer's settings, and
    (older) another JSON file."""
    content = files.read("chat_template.jinja")
    if content is not None:
        return content.decode("utf-8", "replace")
    found = tokenizer.chat_template
    if found is None:
        found = _read(files, "chat_template.json", _TokenizerConfig).chat_template
    if isinstance(found, list):
        named = {entry.name: entry.template for entry in found}
        return named.get("default") or next(iter(named.values()), None)
    return found
