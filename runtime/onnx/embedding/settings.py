"""What the files beside a graph say about its vectors, in the format of sentence-transformers."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, TypeAlias, TypeVar

from msgspec import Meta, Struct

from spillover.models.onnx_folder import OnnxModelFiles
from spillover.models.small_files import decode_json
from spillover.runtime.embedding_request import Pooling
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import available_memory
from spillover.runtime.options import EngineOptions

MAX_N_CTX_DEFAULT = 8_192
_N_CTX_UNKNOWN = 512
_MEMORY_SHARE = 0.25
_SCORE_BYTES = 8
"""Of attention per head and pair of tokens, before and after its softmax."""
_PADDED_POSITIONS = ("roberta", "camembert", "mpnet", "xmod")
"""Kinds of models whose first two positions stand for padding."""
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}

_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_T = TypeVar("_T")


class _Config(Struct):
    """config.json."""

    model_type: str = "unknown"
    max_position_embeddings: _Count | None = None
    num_attention_heads: _Count | None = None
    vocab_size: _Count | None = None


class _SentenceConfig(Struct):
    """sentence_bert_config.json."""

    max_seq_length: _Count | None = None


class _TokenizerConfig(Struct):
    model_max_length: float | None = None


class _Module(Struct):
    """An entry of modules.json: one step on the way to a vector."""

    type: str = ""
    path: str = ""


class EmbeddingSettings(Struct, frozen=True, kw_only=True):
    """The model as its files describe it."""

    architecture: str
    n_ctx_train: int
    n_positions: int | None
    """Most tokens that the model can number; None: not said."""
    n_heads: int
    n_vocab: int | None
    pooling: Pooling
    normalizes: bool
    other_steps: tuple[str, ...]
    """Steps of modules.json that the graph must already have."""


def read_embedding_settings(files: OnnxModelFiles) -> EmbeddingSettings:
    """Read the files that are there. Raises ModelFileError, ModelError."""
    config = _read(files, "config.json", _Config)
    longest = _read(files, "sentence_bert_config.json", _SentenceConfig).max_seq_length
    told = _read(files, "tokenizer_config.json", _TokenizerConfig).model_max_length
    n_positions = config.max_position_embeddings
    if n_positions and any(part in config.model_type for part in _PADDED_POSITIONS):
        n_positions = max(n_positions - 2, 1)
    known = [n for n in (longest, n_positions) if n]
    if not known and told is not None and 1 <= told < 1 << 24:
        known = [int(told)]
    modules = _modules(files)
    kinds = [module.type.rpartition(".")[2] for module in modules]
    return EmbeddingSettings(
        architecture=config.model_type,
        n_ctx_train=min(known, default=_N_CTX_UNKNOWN),
        n_positions=n_positions,
        n_heads=config.num_attention_heads or 12,
        n_vocab=config.vocab_size,
        pooling=_pooling(files, modules),
        normalizes="Normalize" in kinds or not kinds,
        other_steps=tuple(
            kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")
        ),
    )


def longest_input(settings: EmbeddingSettings, options: EngineOptions, size_bytes: int) -> int:
    """Most tokens of an input: as asked for, or as the model and the memory allow."""
    if options.n_ctx is not None:
        if settings.n_positions is not None and options.n_ctx > settings.n_positions:
            raise ModelError(
                f"n_ctx is {options.n_ctx}, but the model has {settings.n_positions} positions"
            )
        return options.n_ctx
    budget = max(available_memory() - size_bytes, 0) * _MEMORY_SHARE
    fitting = isqrt(int(budget) // (_SCORE_BYTES * settings.n_heads))
    return min(settings.n_ctx_train, MAX_N_CTX_DEFAULT, max(fitting, _N_CTX_UNKNOWN))


def _modules(files: OnnxModelFiles) -> list[_Module]:
    content = files.read("modules.json")
    if content is None:
        return []
    return decode_json(content, list[_Module], files.root / "modules.json")


def _pooling(files: OnnxModelFiles, modules: list[_Module]) -> Pooling:
    """As the folder of the pooling step says; the mean without one."""
    path = next((m.path for m in modules if m.type.endswith("Pooling")), "1_Pooling")
    if path in ("", ".", "..") or "/" in path or "\\" in path:
        raise ModelError(f"modules.json has a step in {path[:80]!r}, which is no folder beside it")
    name = f"{path}/config.json"
    said = _read(files, name, dict[str, object])
    modes = [
        key for key, value in said.items() if key.startswith("pooling_mode_") and value is True
    ]
    word = said.get("pooling_mode")
    found = [_MODES.get(mode) for mode in modes]
    if isinstance(word, str):  # as newer files write it
        found, modes = [_NAMES.get(word)], [word]
    if not found:
        return "mean"
    if len(found) > 1 or found[0] is None:
        raise ModelError(
            f"{name} asks for {', '.join(modes)[:200]}: one of mean, cls and lasttoken is supported"
        )
    return found[0]


def _read(files: OnnxModelFiles, name: str, kind: type[_T]) -> _T:
    return decode_json(files.read(name) or b"{}", kind, files.root / name)
