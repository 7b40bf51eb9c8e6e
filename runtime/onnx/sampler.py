"""Chooses tokens from logits with numpy, as llama.cpp's chain does: same order, same draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Constraint, Distribution, Logits, Tokens, certain
from spillover.runtime.draws import Draws
from spillover.runtime.masked_logits import allowed_logits
from spillover.runtime.onnx import candidates as filters
from spillover.runtime.onnx.candidates import Candidates
from spillover.runtime.onnx.penalties import SequenceBreakers, penalize, penalize_repeats
from spillover.runtime.sampling import Sampling

_FORBID = -100.0
_FEW = 64
"""Up to this many candidates, plain Python is faster than numpy."""


class Bias(Struct, frozen=True):
    """Values to add to the logits of some tokens."""

    tokens: Tokens
    added: Logits


def bias_of(sampling: Sampling, forbidden: Sequence[int]) -> Bias | None:
    """The logit_bias of a request, with *forbidden* tokens; None when nothing is added."""
    biases: Mapping[int, float] = {**sampling.logit_bias, **dict.fromkeys(forbidden, _FORBID)}
    if not biases:
        return None
    added = [-np.inf if bias <= _FORBID else bias for bias in biases.values()]
    return Bias(np.array(list(biases), dtype=np.int32), np.array(added, dtype=np.float32))


class NumpySampler:
    """A sampler for one sequence; see runtime/backend.py for the contract."""

    def __init__(
        self,
        logits: Callable[[int], Logits],
        sampling: Sampling,
        seed: int,
        *,
        n_ctx: int,
        bias: Bias | None = None,
        breakers: SequenceBreakers | None = None,
        constraint: Constraint | None = None,
        shows_distribution: bool = False,
    ) -> None:
        self._logits = logits
        self._sampling = sampling
        self._draws = Draws(seed)
        self._bias = bias
        self._breakers = breakers
        self._constraint = constraint
        self._n_window = sampling.n_window(n_ctx)
        self._n_penalized = _resolved(sampling.repeat_last_n, n_ctx)
        self._n_dry = _resolved(sampling.dry_penalty_last_n, n_ctx)
        self._window = np.empty(0, dtype=np.int32)
        self._shows_distribution = shows_distribution
        self.distribution = certain(-1)
        self._keeps_few = (
            0 < sampling.top_k <= _FEW
            and sampling.typical_p == 1
            and sampling.xtc_probability == 0
            and not shows_distribution
        )

    def sample(self, output: int, position: int) -> int:
        logits = self._logits(output)
        # Changing some dozens of values and restoring them is cheaper than copying the row.
        changing = self._changing_tokens()
        saved = logits[changing]
        try:
            self._change(logits)
            token = self._chosen(logits, changing, saved, position)
        finally:
            logits[changing] = saved
        self._remember([token])
        return token

    def _chosen(self, logits: Logits, changed: Tokens, saved: Logits, position: int) -> int:
        """Sample freely first, as most tokens are allowed; then with another draw from the allowed
        ones. With penalties the mask comes first, as in llama.cpp's chain, to make the same
        choice."""
        constraint, draws = self._constraint, self._draws
        if constraint is None:
            return self._choose(filters.everything(logits), draws, position)
        is_masked = bool(self._n_window)
        token = 0 if is_masked else self._choose(filters.everything(logits), draws, position)
        if is_masked or not constraint.allows(token):
            tokens, left = allowed_logits(constraint, logits)
            if left.max() == -np.inf:
                # Bias and penalties forbid all that is left, but the constraint overrides them.
                logits[changed] = saved
                tokens, left = allowed_logits(constraint, logits)
            candidates = Candidates(tokens, left, False)
            token = self._choose(candidates, draws if is_masked else draws.again(), position)
        constraint.accept(token)
        return token

    def accept(self, tokens: Sequence[int]) -> None:
        self._remember(tokens)

    def close(self) -> None:
        pass

    def _remember(self, tokens: Sequence[int]) -> None:
        if self._n_window:
            new = np.array(tokens, dtype=np.int32)
            self._window = np.concatenate([self._window, new])[-self._n_window :]

    def _changing_tokens(self) -> Tokens:
        """The tokens whose logits bias and penalties may change; some may come twice."""
        if self._bias is None:
            return self._window
        return np.concatenate([self._bias.tokens, self._window])

    def _change(self, logits: Logits) -> None:
        s = self._sampling
        if self._bias is not None:
            logits[self._bias.tokens] += self._bias.added
        if s.has_penalties:
            penalize(logits, self._window[-self._n_penalized :], s)
        if self._breakers is not None:
            penalize_repeats(logits, self._window[-self._n_dry :], s, self._breakers)

    def _choose(self, candidates: Candidates, draws: Draws, position: int) -> int:
        s = self._sampling
        if s.temperature == 0:
            token = int(candidates.ids[candidates.logits.argmax()])
            self.distribution = certain(token)
            return token
        if self._keeps_few:
            return filters.draw_from_few(
                filters.top_k(candidates, s.top_k),
                top_p=s.top_p,
                min_p=s.min_p,
                temperature=s.temperature,
                chance=draws.for_token(position),
            )
        left = self._filtered(candidates)
        if self._excludes_top_choices(draws, position):
            left = filters.without_top_choices(left, s.xtc_threshold)
        if self._shows_distribution:
            shares = filters.softmax(left.logits / np.float32(s.temperature))
            self.distribution = Distribution(left.ids, shares)
        return filters.draw(left, s.temperature, draws.for_token(position))

    def _excludes_top_choices(self, draws: Draws, position: int) -> bool:
        s = self._sampling
        if s.xtc_probability == 0 or s.xtc_threshold > 0.5:
            return False
        return draws.for_chance(position) <= s.xtc_probability

    def _filtered(self, left: Candidates) -> Candidates:
        s = self._sampling
        if s.top_k > 0:
            left = filters.top_k(left, s.top_k)
        if s.typical_p < 1:
            left = filters.typical(left, s.typical_p)
        if s.top_p < 1:
            left = filters.top_p(left, s.top_p)
        if s.min_p > 0:
            left = filters.min_p(left, s.min_p)
        return left


def _resolved(n: int, n_ctx: int) -> int:
    return n_ctx if n < 0 else n
