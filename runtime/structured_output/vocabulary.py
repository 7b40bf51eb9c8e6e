"""A model's vocabulary as llguidance wants it: made once for each loaded model."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from llguidance import LLTokenizer

from spillover.runtime.backend import Backend, Mask

SLICES = [r'[^"\\\x00-\x1F\x7F]{1,10}']
"""Tokens in a JSON string, a part of whose mask is made ahead. llguidance has three more by itself,
which double the time to make and make no mask much cheaper."""

MAX_ALIKE = 64
"""Tokens with the same bytes; more are never allowed. llguidance compares each with each."""


class Vocabulary:
    """The bytes of all tokens, the control tokens' texts, and the tokens that end an answer.

    For 152,000 tokens it takes most of a second to make, for the tokenizer's part of which no other
    thread runs; so it is made only for those who ask for forms, and early where they did before.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._greedy: Callable[[str], list[int]] | None = None
        self.n_tokens = backend.info.n_vocab
        everything = range(self.n_tokens)
        self.pieces = [backend.token_bytes(token) for token in everything]
        """What each token adds to the text; control tokens add nothing."""
        self.eog_tokens = frozenset(filter(backend.is_eog, everything))
        self.controls = {
            token: text
            for token, piece in enumerate(self.pieces)
            if not piece and (text := backend.control_text(token))
        }
        """How control tokens are written."""
        self.n_words = (self.n_tokens + 31) // 32

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        ends = sorted(self.eog_tokens)
        if not ends:
            raise ValueError("no token ends an answer")
        tokens = list(self.pieces)
        for token, text in self.controls.items():
            tokens[token] = text.encode()
        _drop_alike(tokens)
        source = _TokenSource(tokens, [*self.controls, *ends], ends[0], self._tokenize)
        tokenizer = LLTokenizer(source, n_vocab=self.n_tokens, eos_token=ends, slices=SLICES)  # type: ignore[arg-type]  # it asks for these attributes only
        self._greedy = tokenizer.greedy_tokenize
        return tokenizer

    def tokens_of(self, text: str) -> list[int]:
        """Tokens whose bytes are those of *text*, not always the ones of the model's tokenizer."""
        return self.tokenizer.greedy_tokenize(text)

    def _tokenize(self, text: str) -> list[int]:
        """As the model's tokenizer does it, unless that changes the text (a blank in front)."""
        ids: list[int] = self._backend.tokenize(
            text, add_special=False, parse_special=False
        ).tolist()
        if b"".join(map(self.pieces.__getitem__, ids)) == text.encode():
            return ids
        return self._greedy(text) if self._greedy else []

    @cached_property
    def any_mask(self) -> Mask:
        """All tokens but those that end an answer."""
        bits = np.zeros(32 * self.n_words, dtype=np.bool_)
        bits[: self.n_tokens] = True
        bits[list(self.eog_tokens)] = False
        return mask_of(bits)

    @cached_property
    def eog_mask(self) -> Mask:
        """The tokens that end an answer."""
        bits = np.zeros(32 * self.n_words, dtype=np.bool_)
        bits[list(self.eog_tokens)] = True
        return mask_of(bits)

    @functools.cache  # noqa: B019  # as many entries as there are markers
    def with_byte(self, byte: int) -> tuple[int, ...]:
        """The tokens whose text has *byte* in it, and more than that."""
        return tuple(
            token
            for token in range(self.n_tokens)
            if len(shown := self.shown(token)) > 1 and byte in shown
        )

    def shown(self, token: int) -> bytes:
        """The bytes of *token*, for a control token how it is written."""
        return self.pieces[token] or self.controls.get(token, "").encode()


def _drop_alike(tokens: list[bytes]) -> None:
    n_alike: Counter[bytes] = Counter()
    for token, piece in enumerate(tokens):
        n_alike[piece] += 1
        if n_alike[piece] > MAX_ALIKE:
            tokens[token] = b""


def mask_of(bits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Mask:
    """Bit t % 32 of word t // 32 is bits[t]; their number is a multiple of 32."""
    return np.packbits(bits, bitorder="little").view(np.uint32)


class _TokenSource:
    """llguidance's TokenizerWrapper, by its shape."""

    is_tokenizer_wrapper = True
    bos_token_id: int | None = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        eos: int,
        tokenize: Callable[[str], list[int]],
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = eos
        self._tokenize = tokenize

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenize(text.decode() if isinstance(text, bytes) else text)
