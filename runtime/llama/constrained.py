"""A sampler that holds an answer to its form, around one that does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spillover.runtime.backend import Constraint, Logits
from spillover.runtime.llama.sampler import Free


class ConstrainedSampler:
    """Samples freely and masks the logits only where the token is not allowed: most are.

    Where the free sampler remembers what it sampled (penalties), the mask comes first, as a token
    that was refused must leave no trace.
    """

    def __init__(self, free: Free, logits: Callable[[int], Logits], constraint: Constraint) -> None:
        self._free = free
        self._logits = logits
        self._constraint = constraint

    def sample(self, output: int, position: int) -> int:
        constraint = self._constraint
        if self._free.remembers:
            self._mask(output)
            token = self._free.sample(output, position)
        else:
            token = self._free.sample(output, position)
            if not constraint.allows(token):
                self._mask(output)
                token = self._free.resample(output, position)
        if not constraint.allows(token):
            # A bias forbids all that the form allows: the form goes first.
            token = int(self._logits(output).argmax())
        constraint.accept(token)
        return token

    def _mask(self, output: int) -> None:
        logits = self._logits(output)
        logits[forbidden(self._constraint, len(logits))] = -np.inf

    def accept(self, tokens: Sequence[int]) -> None:
        self._free.accept(tokens)

    def close(self) -> None:
        self._free.close()


def forbidden(constraint: Constraint, n_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n_tokens,): True for what may not come next."""
    bits = np.unpackbits((~constraint.mask()).view(np.uint8), count=n_tokens, bitorder="little")
    return bits.view(np.bool_)
