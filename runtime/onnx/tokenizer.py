"""The tokenizer of an ONNX model (Hugging Face's tokenizer.json), as the Backend wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Encoding, Tokenizer

from spillover.models.errors import ModelFileError
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.runtime.backend import Tokens
from spillover.runtime.engine import FimTokens
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.onnx.settings import ModelSettings
from spillover.runtime.onnx.token_bytes import bytes_of_all
from spillover.runtime.text.template_tags import PART_ENDS, TURN_ENDS

# The names that model families give to the tokens for filling in the middle.
_FIM_PREFIX = (
    "<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>", "\u2581<PRE>", "<|code_prefix|>",
    "<\uff5cfim\u2581begin\uff5c>",
)  # fmt: skip
_FIM_SUFFIX = (
    "<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<SUF>", "\u2581<SUF>", "<|code_suffix|>",
    "<\uff5cfim\u2581hole\uff5c>",
)  # fmt: skip
_FIM_MIDDLE = (
    "<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<MID>", "\u2581<MID>", "<|code_middle|>",
    "<\uff5cfim\u2581end\uff5c>",
)  # fmt: skip
_FIM_REPO = ("<|fim_repo|>", "<|repo_name|>", "<reponame>", "<repo_name>")
_FIM_FILE = ("<|file_sep|>", "<file_sep>")


class OnnxTokenizer:
    """Text to tokens and tokens to bytes. Any thread may use it. Raises ModelError."""

    def __init__(self, files: OnnxModelFiles, settings: ModelSettings) -> None:
        content = read_tokenizer(files)
        self._parsing = parse_tokenizer(content, files)
        # The setting belongs to the tokenizer, not to the call, so there are two tokenizers.
        self._plain = parse_tokenizer(content, files)
        self._plain.encode_special_tokens = True
        self._pieces = bytes_of_all(self._parsing, content)
        self._bos_id = self._id_of(settings.bos_text, settings.bos_id)
        self.eog_tokens = self._eog_tokens(settings)
        self._prefix, self._suffix = self._surroundings(settings)
        self.bos_text = settings.bos_text or self._text_of(self._bos_id)
        self.eos_text = settings.eos_text or self._text_of(min(settings.eos_ids, default=None))

    @property
    def add_bos(self) -> bool:
        """The tokenizer puts the BOS token in front of a text."""
        return self._bos_id is not None and self._bos_id in self._prefix

    @property
    def fim(self) -> FimTokens | None:
        """The tokens for filling in the middle; None when one of the three is missing."""
        return _find_fim(self._parsing.token_to_id)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of each token, by its id; control tokens have none."""
        return self._pieces

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        ids = encoded(self._parsing if parse_special else self._plain, text).ids
        if add_special:
            ids = [*self._prefix, *ids, *self._suffix]
        return np.array(ids, dtype=np.int32)

    def token_bytes(self, token: int) -> bytes:
        # A graph's vocabulary may be padded beyond the tokenizer's.
        return self._pieces[token] if token < len(self._pieces) else b""

    def control_text(self, token: int) -> str:
        return self._text_of(token) if not self.token_bytes(token) else ""

    def is_eog(self, token: int) -> bool:
        return token in self.eog_tokens

    def _id_of(self, text: str, otherwise: int | None = None) -> int | None:
        token: int | None = self._parsing.token_to_id(text) if text else None
        return otherwise if token is None else token

    def _text_of(self, token: int | None) -> str:
        return "" if token is None else self._parsing.id_to_token(token) or ""

    def _eog_tokens(self, settings: ModelSettings) -> frozenset[int]:
        """The union of all sources: settings, and names that mean the end of a turn."""
        texts = {settings.eos_text}
        added = self._parsing.get_added_tokens_decoder().values()
        names = {token.content for token in added}
        texts |= names & frozenset(TURN_ENDS)
        texts -= {text for text, beside in PART_ENDS.items() if names & beside}
        named = {self._id_of(text) for text in texts} - {None}
        return settings.eos_ids | frozenset(token for token in named if token is not None)

    def _surroundings(self, settings: ModelSettings) -> tuple[list[int], list[int]]:
        """The tokens before and after a prompt: those in the settings, or else those of the
        tokenizer's own post-processor, without any that would end the prompt before its answer."""
        try:
            inner = encoded(self._parsing, "a").ids
            whole = encoded(self._parsing, "a", add_special=True).ids
        except InvalidRequest as error:
            raise ModelError(str(error)) from error
        starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
        at = starts[0] if starts else 0
        before, after = whole[:at], whole[at + len(inner) :]
        if settings.add_bos is not None and self._bos_id is not None:
            before = [self._bos_id] if settings.add_bos else []
        return before, [token for token in after if not self.is_eog(token)]


def read_tokenizer(files: OnnxModelFiles) -> bytes:
    """The content of tokenizer.json. Raises ModelError."""
    try:
        content = files.read("tokenizer.json")
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    if content is None:
        raise ModelError(
            f"there is no tokenizer.json beside {files.graph}: copy it from the model's repository"
        )
    return content


def parse_tokenizer(content: bytes, files: OnnxModelFiles) -> Tokenizer:
    """The tokenizer in *content*, which cuts and pads no text, whatever it says for training.
    Raises ModelError."""
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{files.root / 'tokenizer.json'} cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encoded(tokenizer: Tokenizer, text: str, *, add_special: bool = False) -> Encoding:
    """Raises InvalidRequest for a text with what the vocabulary lacks, where it has no token for
    that."""
    valid = text.encode("utf-8", "replace").decode()
    try:
        return tokenizer.encode(valid, add_special_tokens=add_special)
    except Exception as error:  # the library raises nothing narrower
        raise InvalidRequest(f"the model's tokenizer cannot read the text: {error}") from error


def _find_fim(id_of: Callable[[str], int | None]) -> FimTokens | None:
    """The tokens for filling in the middle; None when the model lacks one of the first three."""
    prefix, suffix, middle = (
        _first_id(id_of, names) for names in (_FIM_PREFIX, _FIM_SUFFIX, _FIM_MIDDLE)
    )
    if prefix is None or suffix is None or middle is None:
        return None
    return FimTokens(
        prefix=prefix,
        suffix=suffix,
        middle=middle,
        repo=_first_id(id_of, _FIM_REPO),
        file=_first_id(id_of, _FIM_FILE),
    )


def _first_id(id_of: Callable[[str], int | None], names: Sequence[str]) -> int | None:
    return next((token for name in names if (token := id_of(name)) is not None), None)
