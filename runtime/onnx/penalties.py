"""Penalties for repetition: those of OpenAI's API, and DRY against verbatim repeats."""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spillover.runtime.backend import Logits, Tokens
from spillover.runtime.sampling import Sampling

_MAX_BREAKER_BYTES = 40
_MAX_TAIL = 20
_LONGEST_REPEAT = 256
"""So many tokens beyond those allowed, a repeat counts as no longer: but for bases near 1 its
penalty has its limit before. A text of one token alone has thousands of repeats."""
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
        cut = [text.encode()[:_MAX_BREAKER_BYTES] for text in texts]
        begun: dict[bytes, list[bytes]] = defaultdict(list)
        for text in cut:
            for n in range(1, len(text)):
                begun[text[:n]].append(text)
        longest = max(map(len, begun), default=0)
        holds_one = re.compile(b"|".join(map(re.escape, cut))).search

        @functools.cache
        def tail(rest: bytes) -> tuple[int, ...]:
            return tuple(tokenize(rest.decode("utf-8", "replace")))[:_MAX_TAIL]

        for token, piece in enumerate(pieces):
            held = [text for text in cut if text in piece] if holds_one(piece) else []
            if held:
                self._tails[token].add(())
            for n in range(1, min(len(piece), longest) + 1):
                for text in begun.get(piece[-n:], ()):
                    if text not in held:
                        self._tails[token].add(tail(text[n:]))

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
    limit = min(limit, shortest + _LONGEST_REPEAT)
    ends = np.flatnonzero(window[:-1] == window[-1])
    lengths: npt.NDArray[np.int32] = np.zeros(len(window), dtype=np.int32)
    n = 1
    while len(ends) and n <= limit:
        lengths[ends] = n
        ends = ends[ends >= n]
        if len(ends):
            ends = ends[window[ends - n] == window[-1 - n]]
        n += 1
    found = np.flatnonzero(lengths >= shortest)
    found = found[lengths[found].argsort(kind="stable")]  # of several repeats the longest counts
    return dict(zip(window[found + 1].tolist(), lengths[found].tolist(), strict=True))


def _dry_penalty(sampling: Sampling, exponent: int) -> np.float32:
    if sampling.dry_base > 1.000001:
        exponent = min(exponent, int(_LOG_OF_LARGEST_FLOAT / math.log(sampling.dry_base)))
    return np.float32(sampling.dry_multiplier) * np.float32(sampling.dry_base) ** exponent
