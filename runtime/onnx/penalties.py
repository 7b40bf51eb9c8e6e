"""Penalties for repetition: those of OpenAI's API, and DRY against verbatim repeats."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from spillover.runtime.backend import Logits, Tokens
from spillover.runtime.sampling import Sampling

_MAX_BREAKER_BYTES = 40
_MAX_TAIL = 20
_LOG_OF_LARGEST_FLOAT = 88.7228391


def penalize(logits: Logits, window: Tokens, sampling: Sampling) -> None:
    """Change *logits* in place for the tokens in *window*: repetition (Keskar et al., 2019: a
    negative logit is multiplied), frequency and presence."""
    tokens, counts = np.unique(window, return_counts=True)
    found = logits[tokens]
    repeat = np.float32(sampling.repeat_penalty)
    found = np.where(found <= 0, found * repeat, found / repeat)
    found -= counts.astype(np.float32) * np.float32(sampling.frequency_penalty)
    logits[tokens] = found - np.float32(sampling.presence_penalty)


class SequenceBreakers:
    """Token sequences that end a repeat for DRY, by their first token: a token that contains a
    breaker string, or one that begins it, with the tokens of the rest."""

    def __init__(
        self,
        texts: Iterable[str],
        pieces: Sequence[bytes],
        tokenize: Callable[[str], Sequence[int]],
    ) -> None:
        self._tails: dict[int, set[tuple[int, ...]]] = defaultdict(set)
        for text in texts:
            self._add(text.encode()[:_MAX_BREAKER_BYTES], pieces, tokenize)

    def _add(
        self, text: bytes, pieces: Sequence[bytes], tokenize: Callable[[str], Sequence[int]]
    ) -> None:
        beginnings = [text[:n] for n in range(1, len(text))]
        for token, piece in enumerate(pieces):
            if text in piece:
                self._tails[token].add(())
                continue
            for beginning in beginnings:
                if piece.endswith(beginning):
                    rest = text[len(beginning) :].decode("utf-8", "replace")
                    self._tails[token].add(tuple(tokenize(rest))[:_MAX_TAIL])

    def is_single(self, token: int) -> bool:
        """Whether *token* alone ends a repeat."""
        return () in self._tails.get(token, ())

    def n_since_last(self, window: Sequence[int]) -> int:
        """How many tokens of *window* come after the last breaker; all when there is none."""
        for back in range(len(window)):
            at = len(window) - 1 - back
            tails = self._tails.get(window[at])
            if not tails:
                continue
            fitting = [
                len(tail) for tail in tails if tuple(window[at + 1 : at + 1 + len(tail)]) == tail
            ]
            if fitting:
                return back - max(fitting)
        return len(window)


def penalize_repeats(
    logits: Logits, window: Tokens, sampling: Sampling, breakers: SequenceBreakers
) -> None:
    """Change *logits* in place for tokens that would continue a repeat (DRY, by p-e-w): the
    longer the repeat, the larger the penalty."""
    shortest = sampling.dry_allowed_length
    if len(window) <= shortest:
        return
    limit = breakers.n_since_last(window.tolist())
    if limit < shortest:
        return
    for token, length in _continued(window, shortest, limit).items():
        if not breakers.is_single(token):
            logits[token] -= _dry_penalty(sampling, length - shortest)


def _continued(window: Tokens, shortest: int, limit: int) -> dict[int, int]:
    """The tokens that would continue a repeat of at least *shortest* tokens, with its length, at
    most *limit*."""
    ends = np.flatnonzero(window[:-1] == window[-1])
    lengths: dict[int, int] = {}
    n = 1
    while len(ends) and n <= limit:
        if n >= shortest:
            lengths.update(dict.fromkeys(window[ends + 1].tolist(), n))
        ends = ends[ends >= n]
        if len(ends):
            ends = ends[window[ends - n] == window[-1 - n]]
        n += 1
    return lengths


def _dry_penalty(sampling: Sampling, exponent: int) -> np.float32:
    if sampling.dry_base > 1.000001:
        exponent = min(exponent, int(_LOG_OF_LARGEST_FLOAT / math.log(sampling.dry_base)))
    return np.float32(sampling.dry_multiplier) * np.float32(sampling.dry_base) ** exponent
