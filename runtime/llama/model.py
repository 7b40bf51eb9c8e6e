"""A loaded GGUF model and its vocabulary."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from spillover.models.at_path import part_names
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.backend import Tokens, n_params_text
from spillover.runtime.engine import FimTokens
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.llama.library import LOG, lib, uses_gpu

_MAX_META_BYTES = 1 << 20
_LONG_FACTORS = "rope_factors_long.weight"

OnProgress: TypeAlias = Callable[[float], None]
"""Is told which share of the weights has been read, from 0 to 1."""


class LlamaModel:
    """Weights and vocabulary. The vocabulary's methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int,
        use_extra_bufts: bool,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._has_long_factors = _has_tensor(path, _LONG_FACTORS)
        params = lib.llama_model_default_params()
        if on_progress is not None:

            def tell(share: float, _: Any) -> bool:
                on_progress(share)
                return True  # go on

            params.progress_callback = lib.llama_progress_callback(tell)
        params.n_gpu_layers = n_gpu_layers
        params.use_extra_bufts = use_extra_bufts
        handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelError(
                f"llama.cpp cannot load {path}: {LOG.tail() or 'no reason given'}. "
                "Check that the file is complete and that its architecture is supported."
            )
        self.handle: Any = handle
        self.is_on_gpu = uses_gpu(n_gpu_layers)
        self.vocab: Any = lib.llama_model_get_vocab(handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self._adds_eos = bool(lib.llama_vocab_get_add_eos(self.vocab))
        self._eos = int(lib.llama_vocab_eos(self.vocab))
        self._pieces: dict[int, bytes] = {}

    @functools.cached_property
    def eog_tokens(self) -> frozenset[int]:
        """Every token that ends an answer."""
        return frozenset(filter(self.is_eog, range(self.n_vocab)))

    def is_eog(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Token ids of a prompt. *add_special* adds BOS where the model wants it; *parse_special*
        reads control tokens such as <|im_end|> as one token."""
        tokens = self.tokenize_whole(text, add_special=add_special, parse_special=parse_special)
        # After a prompt, the EOS that add_eos_token asks for would end it before its answer.
        ends = add_special and len(tokens) and self._adds_eos and tokens[-1] == self._eos
        return tokens[:-1] if ends else tokens

    def tokenize_whole(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Token ids of a text that no answer follows: *add_special* adds all that the model wants
        before and after it."""
        encoded = text.encode("utf-8", "replace")
        tokens = np.empty(len(encoded) + 2, dtype=np.int32)
        n = lib.llama_tokenize(
            self.vocab,
            encoded,
            len(encoded),
            tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            len(tokens),
            add_special,
            parse_special,
        )
        if n < 0:
            raise InvalidRequest(f"the text of {len(encoded)} bytes cannot be tokenized", "prompt")
        return tokens[:n].copy()

    @property
    def opening(self) -> tuple[int, ...]:
        """What precedes a query and a document."""
        adds_bos = lib.llama_vocab_get_add_bos(self.vocab)
        return (lib.llama_vocab_bos(self.vocab),) if adds_bos else ()

    @property
    def between(self) -> tuple[int, ...]:
        """What separates a query from a document."""
        end = (self._end_of_text,) if self._adds_eos else ()
        return (*end, lib.llama_vocab_sep(self.vocab)) if self._adds_separator else end

    @property
    def closing(self) -> tuple[int, ...]:
        """What follows a document."""
        if self._adds_eos:
            return (self._end_of_text,)
        return (lib.llama_vocab_sep(self.vocab),) if self._adds_separator else ()

    @property
    def _adds_separator(self) -> bool:
        return bool(lib.llama_vocab_get_add_sep(self.vocab))

    @property
    def _end_of_text(self) -> int:
        return self._eos if self._eos >= 0 else int(lib.llama_vocab_sep(self.vocab))

    @property
    def rank_template(self) -> str | None:
        """How a model that ranks reads a {query} and a {document}."""
        content = lib.llama_model_chat_template(self.handle, b"rerank")
        return content.decode("utf-8", "replace") if content else None

    @property
    def n_embd_out(self) -> int:
        """Numbers of a vector."""
        return int(lib.llama_model_n_embd_out(self.handle))

    def token_bytes(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def special_text(self, token: int) -> str:
        """The text of a token, including control tokens; empty when there is no such token."""
        if token < 0:
            return ""
        return self._read_piece(token, special=True).decode("utf-8", "replace")

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    @property
    def fim(self) -> FimTokens | None:
        """The tokens for filling in the middle; None when the model lacks one of the three."""
        prefix, suffix, middle, repo, file = (
            ask(self.vocab)
            for ask in (
                lib.llama_vocab_fim_pre,
                lib.llama_vocab_fim_suf,
                lib.llama_vocab_fim_mid,
                lib.llama_vocab_fim_rep,
                lib.llama_vocab_fim_sep,
            )
        )
        if min(prefix, suffix, middle) < 0:
            return None
        return FimTokens(
            prefix=prefix,
            suffix=suffix,
            middle=middle,
            repo=repo if repo >= 0 else None,
            file=file if file >= 0 else None,
        )

    @functools.cached_property
    def chat_template(self) -> str | None:
        return self.metadata("tokenizer.chat_template") or None

    def metadata(self, key: str) -> str:
        """A value of the file's metadata as text; empty when it is absent."""
        size = 4096
        while size <= _MAX_META_BYTES:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if n < 0:
                return ""
            if n < size:
                return buffer.raw[:n].decode("utf-8", "replace")
            size = n + 1
        raise ModelError(f"the model's metadata {key} is larger than {_MAX_META_BYTES} bytes")

    @property
    def n_ctx_short(self) -> int | None:
        """The longest context whose keys are turned by the short factors of LongRoPE, beyond which
        the long ones are; None where the file has none."""
        if not self._has_long_factors:
            return None
        kind = self.metadata("general.architecture")
        n_first = self.metadata(f"{kind}.rope.scaling.original_context_length")
        n_most: int = lib.llama_model_n_ctx_train(self.handle)
        return int(n_first) if n_first.isdigit() else n_most

    def description(self) -> str:
        """Such as "llama 0.49B Q8_0"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, buffer, 256)
        said = buffer.value.decode("utf-8", "replace")
        return with_n_params(said, self.n_params)

    @property
    def n_params(self) -> int:
        return int(lib.llama_model_n_params(self.handle))

    @property
    def n_bytes(self) -> int:
        """Size of the weights."""
        return int(lib.llama_model_size(self.handle))

    def close(self) -> None:
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None


def with_n_params(said: str, n_params: int) -> str:
    """What llama.cpp says of a model, with the number of its parameters: its own is guessed by the
    number of layers, such as 256M for SmolLM2-135M. Those of experts ("8x7B") stay."""
    return re.sub(r"(?<= )(\?|[0-9.]+)[BM](?= )", n_params_text(n_params), said, count=1)


def _has_tensor(path: Path, name: str) -> bool:
    """Whether a file of the model at *path* has it; False where llama.cpp will refuse one."""
    parts = [path.with_name(part) for part in part_names(path.name)]
    with suppress(ModelFileError):
        return any(name == tensor.name for part in parts for tensor in read_header(part).tensors)
    return False
