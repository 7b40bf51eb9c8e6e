"""Chooses tokens from logits with numpy, as llama.cpp's chain does: same order, same draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Constraint, Logits, Tokens
from spillover.runtime.draws import Draws
from spillover.runtime.onnx import candidates as filters
from spillover.runtime.onnx.candidates import Candidates
from spillover.runtime.onnx.penalties import Breakers, penalize, penalize_repeats
from spillover.runtime.sampling import Sampling

_FORBID = -100.0


class Bias(Struct, frozen=True):
    """What is added to the logits of some tokens."""

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
        breakers: Breakers | None = None,
        constraint: Constraint | None = None,
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

    def sample(self, output: int, position: int) -> int:
        raw = self._logits(output)
        changed = self._changed(raw)
        if self._constraint is None:
            token = self._choose(changed, self._draws, position)
        else:
            token = self._choose_allowed(changed, raw, self._constraint, position)
        self._remember([token])
        return token

    def _choose_allowed(
        self, changed: Logits, raw: Logits, constraint: Constraint, position: int
    ) -> int:
        """Free first, as most tokens are allowed; then with another draw from what is. With
        penalties the mask comes first, as in llama.cpp's chain, for the same choice."""
        if self._n_window:
            token = self._choose(_masked(changed, raw, constraint), self._draws, position)
        else:
            token = self._choose(changed, self._draws, position)
            if not constraint.allows(token):
                masked = _masked(changed, raw, constraint)
                token = self._choose(masked, self._draws.again(), position)
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

    def _changed(self, raw: Logits) -> Logits:
        """The logits after bias and penalties; *raw* itself when there are none."""
        s = self._sampling
        if self._bias is None and not self._n_window:
            return raw
        logits = raw.copy()
        if self._bias is not None:
            logits[self._bias.tokens] += self._bias.added
        if s.has_penalties:
            penalize(logits, self._window[-self._n_penalized :], s)
        if self._breakers is not None:
            penalize_repeats(logits, self._window[-self._n_dry :], s, self._breakers)
        return logits

    def _choose(self, logits: Logits, draws: Draws, position: int) -> int:
        s = self._sampling
        if s.temperature == 0:
            return int(logits.argmax())
        left = self._filtered(logits)
        if self._excludes_top_choices(draws, position):
            left = filters.without_top_choices(left, s.xtc_threshold)
        return filters.draw(left, s.temperature, draws.for_token(position))

    def _excludes_top_choices(self, draws: Draws, position: int) -> bool:
        s = self._sampling
        if s.xtc_probability == 0 or s.xtc_threshold > 0.5:
            return False
        return draws.for_chance(position) <= s.xtc_probability

    def _filtered(self, logits: Logits) -> Candidates:
        s = self._sampling
        left = filters.everything(logits)
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


def _masked(logits: Logits, raw: Logits, constraint: Constraint) -> Logits:
    """The logits without what *constraint* forbids. Where bias and penalties forbid all the rest,
    the constraint goes before them."""
    bits = np.unpackbits(constraint.mask().view(np.uint8), count=len(logits), bitorder="little")
    allowed = bits.view(np.bool_)
    masked = np.where(allowed, logits, np.float32(-np.inf))
    if masked.max() == -np.inf:
        return np.where(allowed, raw, np.float32(-np.inf))
    return masked
