"""llama.cpp's sampler chain for one sequence, with a random draw that depends on the position.

llama.cpp's own `dist` sampler carries a generator from token to token. Here it is made anew for
each token from (seed, position), so that a sequence that is preempted, or resumed in another
process, continues with the draws it would have had.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from spillover.runtime.backend import Distribution, Logits, Sampler, certain
from spillover.runtime.draws import redraw_seed_at, seed_at
from spillover.runtime.llama.library import lib
from spillover.runtime.llama.model import LlamaModel
from spillover.runtime.masked_logits import TokenIds, all_tokens
from spillover.runtime.sampling import Sampling

_FORBID = -100.0
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data."""


class Free(Sampler, Protocol):
    """A sampler that a constrained sampler can ask again."""

    @property
    def remembers(self) -> bool:
        """Whether a sampled token affects later ones."""
        ...

    def sample_among(self, tokens: TokenIds, logits: Logits, position: int) -> int:
        """Like sample(), but among these *tokens*; always returns one with a positive probability.
        Uses another draw, because the first one led to a token that is not allowed and so is not
        uniform over the rest."""
        ...


class GreedySampler:
    """The likeliest token, straight from the logits, for temperature 0 with nothing else set."""

    remembers = False

    def __init__(self, logits: Callable[[int], Logits]) -> None:
        self._logits = logits
        self._last = -1

    def sample(self, output: int, position: int) -> int:
        self._last = int(self._logits(output).argmax())
        return self._last

    def sample_among(self, tokens: TokenIds, logits: Logits, position: int) -> int:
        self._last = int(tokens[logits.argmax()])
        return self._last

    @property
    def distribution(self) -> Distribution:
        return certain(self._last)

    def accept(self, tokens: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        pass


class ChainSampler:
    """A C sampler chain that gets a new random draw for each token."""

    def __init__(
        self,
        model: LlamaModel,
        row_of: Callable[[int], tuple[Any, int]],
        sampling: Sampling,
        seed: int,
        *,
        ignore_eos: bool,
        n_ctx: int,
        logits: Callable[[int], Logits] | None = None,
    ) -> None:
        """*logits* is given to a sampler that shows its distribution."""
        self._logits = logits
        self.distribution = certain(-1)
        self._row_of = row_of
        self._seed = seed
        self._sampling = sampling
        self._window = sampling.n_window(n_ctx)
        forbidden = [token for token, bias in sampling.logit_bias.items() if bias <= _FORBID]
        self._forbidden = np.array([*forbidden, *(model.eog_tokens if ignore_eos else ())])
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in _fixed_samplers(model, sampling, ignore_eos=ignore_eos, n_ctx=n_ctx):
            lib.llama_sampler_chain_add(self._chain, sampler)
        self._n_fixed = lib.llama_sampler_chain_n(self._chain)

    @property
    def remembers(self) -> bool:
        return self._window > 0

    def sample(self, output: int, position: int) -> int:
        self._renew_randomness(seed_at(self._seed, position))
        if self._logits is None:
            return int(lib.llama_sampler_sample(self._chain, *self._row_of(output)))
        logits = self._logits(output)
        token = self._applied(all_tokens(len(logits)), logits)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def sample_among(self, tokens: TokenIds, logits: Logits, position: int) -> int:
        if len(self._forbidden) and np.isin(tokens[logits > -np.inf], self._forbidden).all():
            # A bias forbids all that is left, but the constraint overrides it.
            token = int(tokens[logits.argmax()])
            self.distribution = certain(token)
        else:
            seed_of = seed_at if self.remembers else redraw_seed_at
            self._renew_randomness(seed_of(self._seed, position))
            token = self._applied(tokens, logits)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _applied(self, tokens: TokenIds, logits: Logits) -> int:
        candidates = np.zeros(len(tokens), dtype=_CANDIDATE)
        candidates["id"], candidates["logit"] = tokens, logits
        array = lib.llama_token_data_array(
            data=candidates.ctypes.data_as(lib.llama_token_data_p),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        if self._logits is not None:
            self.distribution = self._left(array, token)
        return token

    def _left(self, array: Any, token: int) -> Distribution:
        """What the chain has left in *array*, of which it has drawn *token*."""
        if self._sampling.temperature == 0:
            return certain(token)
        address = ctypes.addressof(array.data.contents)
        rows = (lib.llama_token_data * array.size).from_address(address)
        left = np.frombuffer(rows, dtype=_CANDIDATE)
        return Distribution(left["id"].copy(), left["p"] / left["p"].sum(dtype=np.float64))

    def _renew_randomness(self, seed: int) -> None:
        if self._sampling.temperature == 0:
            return
        while lib.llama_sampler_chain_n(self._chain) > self._n_fixed:
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(self._chain, self._n_fixed))
        s = self._sampling
        if s.xtc_probability > 0:
            xtc = lib.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, seed)
            lib.llama_sampler_chain_add(self._chain, xtc)
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_temp(s.temperature))
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_dist(seed))

    def accept(self, tokens: Sequence[int]) -> None:
        if self._window:
            self._accept(tokens[-self._window :])

    def _accept(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _fixed_samplers(model: LlamaModel, s: Sampling, *, ignore_eos: bool, n_ctx: int) -> list[Any]:
    """The fixed part of the chain, in the order of llama.cpp's server."""
    chain: list[Any] = []
    biases = dict(s.logit_bias)
    if ignore_eos:
        biases.update(dict.fromkeys(model.eog_tokens, _FORBID))
    if biases:
        chain.append(_logit_bias(model, biases))
    if s.has_penalties:
        last_n = n_ctx if s.repeat_last_n < 0 else s.repeat_last_n
        chain.append(
            lib.llama_sampler_init_penalties(
                model.n_vocab, last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        )
    if s.has_dry:
        chain.append(_dry(model, s, n_ctx))
    if s.temperature == 0:
        chain.append(lib.llama_sampler_init_greedy())
        return chain
    if s.top_k > 0:
        chain.append(lib.llama_sampler_init_top_k(s.top_k))
    if s.typical_p < 1:
        chain.append(lib.llama_sampler_init_typical(s.typical_p, 1))
    if s.top_p < 1:
        chain.append(lib.llama_sampler_init_top_p(s.top_p, 1))
    if s.min_p > 0:
        chain.append(lib.llama_sampler_init_min_p(s.min_p, 1))
    if s.xtc_probability == 0:
        chain.append(lib.llama_sampler_init_temp(s.temperature))
    return chain


def _logit_bias(model: LlamaModel, biases: dict[int, float]) -> Any:
    known = {token: bias for token, bias in biases.items() if token < model.n_vocab}
    entries = (lib.llama_logit_bias * len(known))(
        *(
            lib.llama_logit_bias(token=token, bias=-np.inf if bias <= _FORBID else bias)
            for token, bias in known.items()
        )
    )
    return lib.llama_sampler_init_logit_bias(model.n_vocab, len(known), entries)


def _dry(model: LlamaModel, s: Sampling, n_ctx: int) -> Any:
    breakers = [breaker.encode() for breaker in s.dry_sequence_breakers]
    return lib.llama_sampler_init_dry(
        model.vocab,
        s.dry_multiplier,
        s.dry_base,
        s.dry_allowed_length,
        n_ctx if s.dry_penalty_last_n < 0 else s.dry_penalty_last_n,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )
