"""The random draws of a sampler, a function of the seed and the token's position alone."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_REDRAW = 0x5851F42D4C957F2D


def seed_at(seed: int, position: int) -> int:
    """32 well-mixed bits from (seed, position): the finalizer of SplitMix64
    (Steele, Lea and Flood, 2014)."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 32


def redraw_seed_at(seed: int, position: int) -> int:
    """Another 32 bits, for a second draw of the same token."""
    return seed_at(seed ^ _REDRAW, position)


class Draws:
    """The numbers that C++'s mt19937 gives llama.cpp's samplers for the same seed, so that both
    backends choose the same token from the same logits."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = np.random.MT19937(0)

    def again(self) -> Draws:
        """The same numbers for redraw_seed_at."""
        return Draws(self._seed ^ _REDRAW)

    def for_token(self, position: int) -> float:
        """uniform_real_distribution<double>(0, 1): two 32-bit words, the low one first."""
        low, high = self._words(position, 2)
        return min((low + high * 2.0**32) / 2.0**64, 1 - 2.0**-53)

    def for_chance(self, position: int) -> float:
        """uniform_real_distribution<float>(0, 1): one 32-bit word."""
        (word,) = self._words(position, 1)
        return float(np.float32(word) / np.float32(2.0**32))

    def _words(self, position: int, n: int) -> list[int]:
        self._generator._legacy_seeding(seed_at(self._seed, position))
        words: list[int] = self._generator.random_raw(n).tolist()
        return words
