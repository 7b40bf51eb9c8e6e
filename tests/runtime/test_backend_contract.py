"""What every backend must do, for all of them: GGUF, and ONNX in its layouts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spillover.runtime.backend import Backend, DecodeAborted, KvFull, Logits, Rows, Tokens
from spillover.runtime.options import EngineOptions
from spillover.runtime.sampling import Sampling
from tests.runtime import models
from tests.runtime.models import close

OPTIONS = EngineOptions(n_parallel=4, n_prefix_cached=2, n_ctx=512, n_kv=1024, n_threads=1)
TEXTS = (
    "Once upon a time there was a fox.",
    "Tell me a story about a dog named Max who was afraid of the dark.",
    "The cat",
)


@pytest.fixture(scope="module", params=models.MAKERS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    target = tmp_path_factory.mktemp("model") / "storyteller"
    backend = models.opened(request.param, target, OPTIONS)
    yield backend
    backend.close()


@pytest.fixture
def backend(opened: Backend) -> Backend:
    """With an empty KV cache."""
    empty(opened)
    return opened


def empty(backend: Backend) -> None:
    for seq in range(backend.info.n_seq):
        backend.keep(seq, 0)


def tokens_of(backend: Backend, text: str) -> Tokens:
    return backend.tokenize(text, add_special=False, parse_special=True)


def read(backend: Backend, seq: int, tokens: Tokens, start: int = 0) -> Logits:
    """The logits after the last of *tokens*, read in one call."""
    backend.decode([Rows(seq, start, tokens, True)])
    return backend.logits(0).copy()


def step(backend: Backend, sequences: list[Tokens]) -> list[Logits]:
    """The logits after the last token of each, all decoded together."""
    backend.decode([Rows(seq, len(t) - 1, t[-1:], True) for seq, t in enumerate(sequences)])
    return [backend.logits(seq).copy() for seq in range(len(sequences))]


# --- tokens ---------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_the_bytes_of_the_tokens_are_those_of_the_text(backend: Backend, text: str) -> None:
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(backend.token_bytes, tokens.tolist())) == text.encode("utf-8", "replace")


def test_control_tokens_are_read_only_where_wanted(backend: Backend) -> None:
    parsed = backend.tokenize("<|im_end|>", add_special=False, parse_special=True)
    plain = backend.tokenize("<|im_end|>", add_special=False, parse_special=False)
    assert len(parsed) == 1
    assert backend.is_eog(int(parsed[0]))
    assert backend.token_bytes(int(parsed[0])) == b""
    assert len(plain) > 1
    assert not any(map(backend.is_eog, plain.tolist()))


def test_every_token_that_ends_an_answer_is_known(backend: Backend) -> None:
    ends = [token for token in range(backend.info.n_vocab) if backend.is_eog(token)]
    names = ("<|endoftext|>", "<|im_end|>")
    assert sorted(int(tokens_of(backend, name)[0]) for name in names) == ends


def test_the_facts_are_reported(backend: Backend) -> None:
    info = backend.info
    assert info.architecture == "llama"
    # The plain graphs hold the output head apart from the embedding.
    assert 5_700_000 < info.n_params < 7_000_000
    assert info.n_vocab == 4096
    assert info.n_kv == 1024
    assert info.n_seq == 7
    assert info.chat_template is not None
    assert (info.bos_text, info.eos_text) == ("<|endoftext|>", "<|im_end|>")
    assert not info.add_bos


# --- decoding -------------------------------------------------------------------------------


def test_a_prompt_may_be_read_in_slices(backend: Backend) -> None:
    tokens = np.concatenate([tokens_of(backend, text) for text in TEXTS])
    whole = read(backend, 0, tokens)
    for start, end in ((0, 1), (1, 6), (6, len(tokens))):
        in_slices = read(backend, 1, tokens[start:end], start)
    assert close(backend, whole, in_slices)
    assert np.isfinite(whole).all()


def test_sequences_of_unequal_length_decode_together_as_each_alone(backend: Backend) -> None:
    prompts = [tokens_of(backend, text) for text in TEXTS]
    answers, alone = [], []
    for tokens in prompts:
        logits = [read(backend, 0, tokens)]
        for _ in range(12):
            tokens = np.append(tokens, np.int32(logits[-1].argmax()))
            logits += step(backend, [tokens])
        backend.keep(0, 0)
        answers.append(tokens)
        alone.append(logits[1:])
    for seq, tokens in enumerate(prompts):
        read(backend, seq, tokens)
    for i in range(12):
        begun = [answer[: len(t) + i + 1] for t, answer in zip(prompts, answers, strict=True)]
        for seq, found in enumerate(step(backend, begun)):
            assert close(backend, alone[seq][i], found)


def test_all_tokens_of_a_slice_may_have_logits(backend: Backend) -> None:
    first, second = (tokens_of(backend, text) for text in TEXTS[:2])
    wanted = [read(backend, 2, first[i : i + 1], i) for i in range(len(first))]
    backend.keep(2, 0)
    read(backend, 0, first[:4])
    read(backend, 1, second[:-1])
    batch = [
        Rows(0, 4, first[4:7], True, wants_all_logits=True),
        Rows(1, len(second) - 1, second[-1:], True),
    ]
    backend.decode(batch)
    found = [backend.logits(output).copy() for output in range(4)]
    assert all(map(close, [backend] * 3, found, wanted[4:7]))
    assert backend.keep(0, 5) == 5
    rest = Rows(0, 5, first[5:], True, wants_all_logits=True)
    backend.decode([rest])
    found = [backend.logits(output).copy() for output in range(rest.n_outputs)]
    assert all(map(close, [backend] * len(found), found, wanted[5:]))


@pytest.mark.parametrize("n", [2, 5])
def test_a_slice_of_a_prompt_shares_a_call_with_decoding_ones(backend: Backend, n: int) -> None:
    first, second, third = (tokens_of(backend, text) for text in TEXTS)
    wanted = [read(backend, seq, t) for seq, t in enumerate((first, second, third))]
    empty(backend)
    read(backend, 0, first[:-1])
    read(backend, 2, third[:-1])
    batch = [
        Rows(2, len(third) - 1, third[-1:], True),
        Rows(1, 0, second[:n], False),
        Rows(0, len(first) - 1, first[-1:], True),
    ]
    backend.decode(batch)
    assert close(backend, backend.logits(0), wanted[2])
    assert close(backend, backend.logits(1), wanted[0])
    assert close(backend, read(backend, 1, second[n:], n), wanted[1])


def test_all_sequences_decode_at_once(backend: Backend) -> None:
    tokens = tokens_of(backend, TEXTS[0])
    n = backend.info.n_seq
    cuts = [tokens[: 2 + seq] for seq in range(n)]
    wanted = []
    for cut in cuts:
        wanted.append(read(backend, 0, cut))
        backend.keep(0, 0)
    for seq, cut in enumerate(cuts):
        backend.decode([Rows(seq, 0, cut[:-1], False)])
    backend.decode([Rows(seq, len(cut) - 1, cut[-1:], True) for seq, cut in enumerate(cuts)])
    assert all(close(backend, backend.logits(seq), wanted[seq]) for seq in range(n))


# --- the KV cache ---------------------------------------------------------------------------


def test_a_cut_sequence_continues_from_there(backend: Backend) -> None:
    tokens = tokens_of(backend, TEXTS[1])
    wanted = read(backend, 1, tokens)
    read(backend, 0, np.append(tokens[:9], tokens_of(backend, TEXTS[0])))
    assert backend.keep(0, 9) == 9
    assert close(backend, read(backend, 0, tokens[9:], 9), wanted)


def test_a_copy_continues_like_its_source_and_leaves_it_unchanged(backend: Backend) -> None:
    tokens = tokens_of(backend, TEXTS[1])
    wanted = read(backend, 2, tokens)
    backend.keep(2, 0)
    read(backend, 0, tokens[:-1])
    assert backend.copy(0, 1, 8) == 8
    read(backend, 1, tokens_of(backend, TEXTS[0]), 8)
    assert close(backend, read(backend, 0, tokens[-1:], len(tokens) - 1), wanted)
    assert backend.copy(0, 2, 8) == 8
    backend.keep(0, 0)
    assert close(backend, read(backend, 2, tokens[8:], 8), wanted)


def test_a_batch_that_does_not_fit_changes_nothing(backend: Backend) -> None:
    tokens = tokens_of(backend, TEXTS[1])
    wanted = read(backend, 2, tokens)
    backend.keep(2, 0)
    read(backend, 0, tokens[:-1])
    filler = np.full(510, 300, dtype=np.int32)
    backend.decode([Rows(1, 0, filler, False)])
    with pytest.raises(KvFull):
        backend.decode([Rows(2, 0, filler, True), Rows(0, len(tokens) - 1, tokens[-1:], True)])
    backend.keep(1, 0)
    assert close(backend, read(backend, 0, tokens[-1:], len(tokens) - 1), wanted)


def test_an_aborted_call_can_be_made_again(backend: Backend) -> None:
    tokens = np.tile(tokens_of(backend, TEXTS[1]), 30)[:500]
    wanted = read(backend, 1, tokens)
    backend.keep(1, 0)
    read(backend, 0, tokens[:10])
    is_over = threading.Event()

    def abort_until_over() -> None:
        while not is_over.is_set():
            backend.abort()

    thread = threading.Thread(target=abort_until_over)
    thread.start()
    try:
        with pytest.raises(DecodeAborted):
            backend.decode([Rows(0, 10, tokens[10:], True)])
    finally:
        is_over.set()
        thread.join()
    assert backend.keep(0, 10) == 10
    assert close(backend, read(backend, 0, tokens[10:], 10), wanted)


def test_an_abort_between_calls_ends_none(backend: Backend) -> None:
    backend.abort()
    assert np.isfinite(read(backend, 0, tokens_of(backend, TEXTS[0]))).all()


Operation = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 4), st.integers(1, 20) | st.just(40)),
    st.tuples(st.just("step"), st.sets(st.integers(0, 4), min_size=1), st.just(0)),
    st.tuples(st.just("keep"), st.integers(0, 4), st.integers(0, 30)),
    st.tuples(st.just("copy"), st.integers(0, 4), st.integers(0, 4)),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(Operation, max_size=20))
def test_whatever_sequences_came_and_went_each_knows_its_own_tokens(
    backend: Backend, operations: list[tuple[str, object, int]]
) -> None:
    empty(backend)
    text = np.tile(np.concatenate([tokens_of(backend, t) for t in TEXTS]), 5)
    held = dict.fromkeys(range(5), text[:0])
    for number, (kind, which, n) in enumerate(operations):
        _apply(backend, held, kind, which, n, text[number:])
    last = text[-1:]
    present = [seq for seq in held if len(held[seq])]
    if present:
        backend.decode([Rows(seq, len(held[seq]), last, True) for seq in present])
    found = {seq: backend.logits(i).copy() for i, seq in enumerate(present)}
    for seq in present:
        assert close(backend, read(backend, 6, np.append(held[seq], last)), found[seq])
        backend.keep(6, 0)


def _apply(
    backend: Backend, held: dict[int, Tokens], kind: str, which: object, n: int, text: Tokens
) -> None:
    if kind == "step":
        assert isinstance(which, set)
        batch = [Rows(seq, len(held[seq]), text[seq : seq + 1], True) for seq in sorted(which)]
        backend.decode(batch)
        for rows in batch:
            held[rows.seq] = np.append(held[rows.seq], rows.tokens)
        return
    assert isinstance(which, int)
    if kind == "read":
        backend.decode([Rows(which, len(held[which]), text[:n], False)])
        held[which] = np.append(held[which], text[:n])
    elif kind == "keep":
        n_kept = min(n, len(held[which]))
        assert backend.keep(which, n_kept) == n_kept
        held[which] = held[which][:n_kept]
    elif which != n and len(held[which]):
        backend.keep(n, 0)
        n_copied = len(held[which]) // 2 + 1
        assert backend.copy(which, n, n_copied) == n_copied
        held[n] = held[which][:n_copied]


# --- sampling -------------------------------------------------------------------------------


def test_a_sampler_draws_by_seed_and_position_alone(backend: Backend) -> None:
    read(backend, 0, tokens_of(backend, TEXTS[0]))
    drawn = []
    for seed in (5, 5, 6):
        sampler = backend.sampler(Sampling(temperature=1.5), seed, ignore_eos=False)
        drawn.append([sampler.sample(0, position) for position in range(20)])
        sampler.close()
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_ignore_eos_forbids_every_end_token(backend: Backend, temperature: float) -> None:
    read(backend, 0, tokens_of(backend, "<|im_start|>user\nHello!<|im_end|>\n" + TEXTS[0]))
    sampling = Sampling(temperature=temperature, logit_bias={0: 90.0, 2: 90.0})
    sampler = backend.sampler(sampling, 1, ignore_eos=True)
    assert not any(backend.is_eog(sampler.sample(0, position)) for position in range(20))
    sampler.close()
    free = backend.sampler(sampling, 1, ignore_eos=False)
    assert backend.is_eog(free.sample(0, 0))
    free.close()


def test_penalties_and_bias_change_the_likeliest_token(backend: Backend) -> None:
    best = int(read(backend, 0, tokens_of(backend, TEXTS[0])).argmax())
    for sampling in (
        Sampling(temperature=0, logit_bias={best: -100.0}),
        Sampling(temperature=0, presence_penalty=2.0, frequency_penalty=2.0, repeat_penalty=5.0),
    ):
        sampler = backend.sampler(sampling, 1, ignore_eos=False)
        sampler.accept([best] * 5)
        assert sampler.sample(0, 0) != best
        sampler.close()


def test_a_saved_sequence_continues_as_if_it_had_stayed(backend: Backend) -> None:
    saver = backend.saver
    assert saver is not None
    tokens, other = (tokens_of(backend, text) for text in TEXTS[:2])
    n = min(len(tokens), len(other)) - 1
    for i in range(n):  # cells of both in turns
        rows = [Rows(seq, i, t[i : i + 1], False) for seq, t in ((0, tokens), (1, other))]
        backend.decode(rows)
    wanted = read(backend, 0, tokens[n : n + 1], n)
    assert backend.keep(0, n) == n
    assert saver.can_save(0, 0, n)
    state = saver.save(0, 0, n)
    assert state.nbytes == saver.saved_bytes(0, 0, n)
    backend.keep(0, 0)
    assert saver.append(2, 0, n, state)
    assert np.array_equal(read(backend, 2, tokens[n : n + 1], n), wanted)
    assert backend.keep(2, 3) == 3
    step_two = read(backend, 2, tokens[3 : n + 1], 3)
    assert np.allclose(step_two, wanted, atol=0.2)


def test_states_are_put_together_and_cut(backend: Backend) -> None:
    saver = backend.saver
    assert saver is not None
    tokens = tokens_of(backend, TEXTS[1])
    n = len(tokens) - 1
    wanted = read(backend, 0, tokens)
    states = [saver.save(0, start, end) for start, end in ((0, 4), (4, n), (7, n))]
    assert saver.append(1, 0, 4, states[0])
    assert saver.append(1, 4, n, states[1])
    assert close(backend, read(backend, 1, tokens[n:], n), wanted)
    assert backend.keep(1, 7) == 7
    assert saver.append(1, 7, n, states[2])
    assert close(backend, read(backend, 1, tokens[n:], n), wanted)


def test_a_state_without_room_for_it_changes_nothing(backend: Backend) -> None:
    saver = backend.saver
    assert saver is not None
    many = np.resize(tokens_of(backend, TEXTS[1]), 500)
    read(backend, 0, many)
    state = saver.save(0, 0, 500)
    read(backend, 1, many)
    assert not saver.append(2, 0, 500, state)
    backend.keep(1, 0)
    assert not saver.append(2, 0, 499, state)  # it is of another text
    assert saver.append(2, 0, 500, state)
