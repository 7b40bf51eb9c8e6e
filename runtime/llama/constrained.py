"""Wraps a sampler so that it follows a constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spillover.runtime.backend import Constraint, Distribution, Logits
from spillover.runtime.llama.sampler import Free
from spillover.runtime.masked_logits import allowed_logits


class ConstrainedSampler:
    """Samples freely first, and samples among the allowed tokens only when the token is not one of
    them: most are.

    A free sampler that remembers what it sampled (penalties) only ever gets allowed tokens, because
    a refused token must leave no trace.
    """

    def __init__(self, free: Free, logits: Callable[[int], Logits], constraint: Constraint) -> None:
        self._free = free
        self._logits = logits
        self._constraint = constraint

    def sample(self, output: int, position: int) -> int:
        constraint = self._constraint
        token = -1 if self._free.remembers else self._free.sample(output, position)
        if token < 0 or not constraint.allows(token):
            tokens, logits = allowed_logits(constraint, self._logits(output))
            token = self._free.sample_among(tokens, logits, position)
        constraint.accept(token)
        return token

    @property
    def distribution(self) -> Distribution:
        return self._free.distribution

    def accept(self, tokens: Sequence[int]) -> None:
        self._free.accept(tokens)

    def close(self) -> None:
        self._free.close()
