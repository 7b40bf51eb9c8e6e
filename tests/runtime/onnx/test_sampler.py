"""The numpy sampler against llama.cpp's chain, on the same logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.backend import Distribution, Logits, Mask, Rows
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.onnx import candidates as filters
from spillover.runtime.onnx.penalties import SequenceBreakers, penalize_repeats
from spillover.runtime.onnx.sampler import NumpySampler, bias_of
from spillover.runtime.sampling import Sampling

TEXT = "Once upon a time there was a fox. The fox was a good fox. Once upon a time there was a"

OFF = Sampling(top_k=0, top_p=1.0, min_p=0.0)
SAMPLINGS = {
    "defaults": Sampling(),
    "everything off": OFF,
    "hot": Sampling(temperature=2.5, top_k=200, top_p=0.99, min_p=0.0),
    "top-k": msgspec.structs.replace(OFF, top_k=5),
    "top-k beyond the vocabulary": msgspec.structs.replace(OFF, top_k=1_000_000),
    "top-p": msgspec.structs.replace(OFF, top_p=0.7),
    "top-p of a flat distribution": msgspec.structs.replace(OFF, top_p=0.999, temperature=3.0),
    "min-p": msgspec.structs.replace(OFF, min_p=0.02),
    "typical": msgspec.structs.replace(OFF, typical_p=0.6),
    "typical, then the others": Sampling(typical_p=0.9, top_p=0.8),
    "XTC": Sampling(xtc_probability=0.5, xtc_threshold=0.05),
    "repetition": Sampling(repeat_penalty=1.3),
    "presence and frequency": Sampling(presence_penalty=0.7, frequency_penalty=0.4),
    "penalties without a limit": Sampling(repeat_penalty=1.1, repeat_last_n=-1),
    "DRY": Sampling(dry_multiplier=0.8),
    "DRY with few breakers": Sampling(dry_multiplier=1.5, dry_sequence_breakers=(". The",)),
    "DRY without breakers": Sampling(dry_multiplier=2.0, dry_sequence_breakers=()),
    "DRY, greedy": Sampling(temperature=0, dry_multiplier=3.0, dry_sequence_breakers=()),
    "bias": Sampling(logit_bias={300: 4.0, 301: -100.0, 302: 2.5}),
    "greedy": Sampling(temperature=0, repeat_penalty=1.5),
}
FEW = {
    f"{name}, of a few": msgspec.structs.replace(sampling, top_k=40)
    for name, sampling in SAMPLINGS.items()
}
"""A small top-k has a path of its own."""
SAMPLINGS |= FEW


@pytest.fixture(scope="module")
def llama(model_path: Path) -> Iterator[LlamaBackend]:
    config = LlamaConfig(
        n_kv=512,
        n_seq=2,
        n_batch=256,
        n_threads=1,
        n_gpu_layers=0,
        kv_cache_type="f16",
        use_extra_bufts=True,
    )
    backend = LlamaBackend(model_path, config)
    tokens = backend.tokenize(TEXT, add_special=False, parse_special=False)
    backend.decode([Rows(0, 0, tokens, True)])
    yield backend
    backend.close()


def numpy_sampler(
    llama: LlamaBackend,
    sampling: Sampling,
    seed: int,
    *,
    ignore_eos: bool = False,
    shows_distribution: bool = False,
) -> NumpySampler:
    eog = [t for t in range(llama.info.n_vocab) if llama.is_eog(t)] if ignore_eos else []
    breakers = None
    if sampling.has_dry:
        pieces = [llama.token_bytes(t) for t in range(llama.info.n_vocab)]
        breakers = SequenceBreakers(
            sampling.dry_sequence_breakers,
            pieces,
            lambda text: llama.tokenize(text, add_special=False, parse_special=False).tolist(),
        )
    return NumpySampler(
        llama.logits,
        sampling,
        seed,
        n_ctx=llama.info.n_kv,
        bias=bias_of(sampling, eog),
        breakers=breakers,
        shows_distribution=shows_distribution,
    )


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_same_logits_and_seed_give_the_same_tokens_as_llama_cpp(
    llama: LlamaBackend, name: str
) -> None:
    tokens = llama.tokenize(TEXT, add_special=False, parse_special=False).tolist()
    # llama.cpp's typical sampler takes the logarithm of a forbidden token's 0 where it sees one.
    ignore_eos = not name.startswith("typical")
    theirs = llama.sampler(SAMPLINGS[name], 42, ignore_eos=ignore_eos)
    ours = numpy_sampler(llama, SAMPLINGS[name], 42, ignore_eos=ignore_eos)
    for sampler in (theirs, ours):
        sampler.accept(tokens)
    drawn = [(theirs.sample(0, i), ours.sample(0, i)) for i in range(150)]
    theirs.close()
    assert [a for a, _ in drawn] == [b for _, b in drawn]


def test_a_repeat_of_thousands_of_tokens_counts_as_one_of_some_hundred() -> None:
    """All of it was followed, which took seconds for each token of all streams."""
    logits = np.zeros(10, dtype=np.float32)
    sampling = Sampling(dry_multiplier=1, dry_base=1.001, dry_penalty_last_n=-1)
    window = np.full(3000, 7, dtype=np.int32)
    penalize_repeats(logits, window, sampling, SequenceBreakers((), (), lambda text: ()))
    assert logits[7] == pytest.approx(-(1.001**256), rel=1e-3)


def test_the_rest_of_a_breaker_is_tokenized_once() -> None:
    """It was for each token that ends as the breaker begins: seconds, in which all streams stood
    still."""
    asked: list[str] = []

    def tokenize(text: str) -> list[int]:
        asked.append(text)
        return [4]

    breakers = SequenceBreakers(("ab",), (b"a", b"ba", b"xa", b"cab", b"b"), tokenize)
    assert asked == ["b"]
    assert [breakers.is_single(token) for token in range(5)] == [False, False, False, True, False]
    assert breakers.n_since_last([2, 4, 0, 1]) == 2


@pytest.mark.parametrize("name", SAMPLINGS)
def test_what_a_token_was_drawn_from_can_be_seen(llama: LlamaBackend, name: str) -> None:
    sampling, tokens = SAMPLINGS[name], list(b"abcabc")
    ignore_eos = not name.startswith("typical")
    samplers = (
        llama.sampler(sampling, 5, ignore_eos=ignore_eos, shows_distribution=True),
        numpy_sampler(llama, sampling, 5, ignore_eos=ignore_eos, shows_distribution=True),
        llama.sampler(sampling, 5, ignore_eos=ignore_eos),
    )
    for sampler in samplers:
        sampler.accept(tokens)
    for i in range(20):
        theirs, ours, plain = (sampler.sample(0, i) for sampler in samplers)
        assert theirs == ours == plain
        left = [shares_of(sampler.distribution, llama.info.n_vocab) for sampler in samplers[:2]]
        assert left[0] == pytest.approx(left[1], abs=1e-4)
        assert left[0][theirs] > 0
        assert left[0].sum() == pytest.approx(1)
        assert sampling.top_k == 0 or np.count_nonzero(left[0]) <= sampling.top_k
    for sampler in samplers:
        sampler.close()


def shares_of(left: Distribution, n_vocab: int) -> Any:
    shares = np.zeros(n_vocab)
    shares[left.tokens] = left.probabilities
    return shares


def test_a_token_depends_on_its_position_and_not_on_what_was_drawn_before(
    llama: LlamaBackend,
) -> None:
    whole = numpy_sampler(llama, Sampling(), 7)
    tokens = [whole.sample(0, i) for i in range(40)]
    resumed = numpy_sampler(llama, Sampling(), 7)
    resumed.accept(tokens[:25])
    assert [resumed.sample(0, i) for i in range(25, 40)] == tokens[25:]


class OnlyEven:
    """Allows tokens with even ids."""

    is_complete = False
    has_failed = False

    def __init__(self, n_vocab: int) -> None:
        self.accepted: list[int] = []
        self.n_masks = 0
        bits = np.arange(-(-n_vocab // 32) * 32) % 2 == 0
        self._mask = np.packbits(bits, bitorder="little").view(np.uint32)

    def allows(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self) -> Mask:
        self.n_masks += 1
        return self._mask

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), OFF])
def test_a_constraint_is_kept_and_masks_only_what_was_refused(
    llama: LlamaBackend, sampling: Sampling
) -> None:
    constraint = OnlyEven(llama.info.n_vocab)
    sampler = NumpySampler(llama.logits, sampling, 3, n_ctx=512, constraint=constraint)
    free = NumpySampler(llama.logits, sampling, 3, n_ctx=512)
    drawn = [(sampler.sample(0, i), free.sample(0, i)) for i in range(60)]
    assert all(token % 2 == 0 for token, _ in drawn)
    assert all(token == wanted for token, wanted in drawn if wanted % 2 == 0)
    assert constraint.n_masks == sum(wanted % 2 for _, wanted in drawn)
    assert constraint.accepted == [token for token, _ in drawn]


def test_a_constraint_goes_before_a_bias_that_forbids_all_it_allows() -> None:
    logits = np.zeros(64, dtype=np.float32)
    constraint = OnlyEven(64)
    sampling = Sampling(logit_bias=dict.fromkeys(range(0, 64, 2), -100.0))
    sampler = NumpySampler(
        lambda _: logits, sampling, 3, n_ctx=64, bias=bias_of(sampling, []), constraint=constraint
    )
    assert sampler.sample(0, 0) % 2 == 0


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 20_000), st.integers(1, 500), st.sampled_from([1, 9])
)
def test_the_largest_are_the_first_of_a_full_sort(
    seed: int, n: int, k: int, n_distinct: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.standard_normal(n).astype(np.float32)
    if n_distinct > 1:
        scores = random.integers(0, n_distinct, n).astype(np.float32)  # many ties
    found = scores[filters.largest(scores, k)]
    assert np.array_equal(found, np.sort(scores)[::-1][:k])
    assert len(set(filters.largest(scores, k).tolist())) == min(n, k)


def random_logits(n: int) -> Logits:
    return np.random.default_rng(1).standard_normal(n).astype(np.float32) * 3


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.9999])
def test_top_p_of_a_large_vocabulary_needs_no_sort_and_misses_nothing(p: float) -> None:
    logits = random_logits(50_000)
    kept = filters.top_p(filters.everything(logits), p)
    order = np.argsort(-logits)
    mass = np.cumsum(filters.softmax(logits)[order], dtype=np.float64)
    n = int(np.searchsorted(mass, p)) + 1
    assert abs(len(kept.ids) - n) <= 1 + n // 1000
    assert set(kept.ids[: n - 5].tolist()) <= set(order[:n].tolist())


class Only:
    """A constraint that allows the same tokens for ever."""

    is_complete = has_failed = False

    def __init__(self, tokens: list[int], n_vocab: int) -> None:
        self._tokens = tokens
        bits = np.zeros(-(-n_vocab // 32) * 32, dtype=np.bool_)
        bits[tokens] = True
        self._mask = np.packbits(bits, bitorder="little").view(np.uint32)

    def allows(self, token: int) -> bool:
        return token in self._tokens

    def mask(self) -> Mask:
        return self._mask

    def accept(self, token: int) -> None:
        assert self.allows(token)


@pytest.mark.parametrize("n_allowed", [1, 3, 60, 9_000])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1, repeat_penalty=1.3),
        Sampling(seed=1, temperature=0, frequency_penalty=0.5),
        Sampling(seed=1, top_k=0, typical_p=0.7, presence_penalty=0.3),
    ],
)
def test_to_choose_among_the_allowed_is_to_choose_from_a_masked_row(
    sampling: Sampling, n_allowed: int
) -> None:
    draw = np.random.default_rng(n_allowed)
    n_vocab = 10_000
    allowed = sorted(draw.choice(n_vocab, n_allowed, replace=False).tolist())
    row = draw.standard_normal(n_vocab, dtype=np.float32) * 3
    masked = np.full(n_vocab, -np.inf, dtype=np.float32)
    masked[allowed] = row[allowed]
    constraint = Only(allowed, n_vocab)
    held = NumpySampler(lambda _: row, sampling, 1, n_ctx=64, constraint=constraint)
    free = NumpySampler(lambda _: masked, sampling, 1, n_ctx=64)
    for position in range(12):
        assert held.sample(0, position) == free.sample(0, position)
