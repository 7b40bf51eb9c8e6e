"""Tiny encoders in real workers give what numpy computes with the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from msgspec import structs

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.embedding_request import EmbeddingRequest
from spillover.runtime.errors import InputTooLong, InvalidRequest
from spillover.runtime.events import Embedded, EngineEvent, Queued
from spillover.runtime.hosting.memory import needed_bytes
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.device import gpu_names
from spillover.runtime.options import EngineOptions
from tests import tiny_bert
from tests.answers import ask
from tests.runtime.embedding.vectors import end_of, similarity, vectors_in, vectors_of

WEIGHTS = tiny_bert.weights()
TEXTS = ("the dog runs", "a cat", "blue house", "the sea sleeps the tree the house", "zebra", "")
N_POSITIONS: int = tiny_bert.CONFIG["max_position_embeddings"]
OPTIONS = EngineOptions(n_threads=1)


def _gguf(pooling: gguf.PoolingType) -> Callable[[Path], Path]:
    return lambda folder: tiny_bert.write_gguf(folder / "tiny.gguf", WEIGHTS, pooling)


def _onnx(mode: str, **fields: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tiny_bert.write_onnx(folder, WEIGHTS, **fields)
        tiny_bert.write_pooling(folder, mode)
        return folder

    return make


MODELS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "gguf-mean": ("mean", _gguf(gguf.PoolingType.MEAN)),
    "gguf-cls": ("cls", _gguf(gguf.PoolingType.CLS)),
    "gguf-last": ("last", _gguf(gguf.PoolingType.LAST)),
    "onnx-mean": ("mean", _onnx("mean_tokens")),
    "onnx-cls": ("cls", _onnx("cls_token", has_segments=False)),
    "onnx-last": ("last", _onnx("lasttoken")),
    "onnx-pooled": ("mean", _onnx("mean_tokens", pools=True)),
}


def expected(ids: list[int], pooling: str) -> Any:
    states = tiny_bert.hidden_states(WEIGHTS, ids)
    return {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[pooling]


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalEngine, str]]:
    """An engine, and how it pools."""
    pooling, make = MODELS[request.param]
    with LocalEngine(make(tmp_path_factory.mktemp("model")), OPTIONS) as engine:
        engine.wait_ready(60)
        yield engine, pooling


@pytest.fixture(scope="module", params=["gguf-mean", "onnx-mean"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    with LocalEngine(MODELS[request.param][1](tmp_path_factory.mktemp("model")), OPTIONS) as engine:
        engine.wait_ready(60)
        yield engine


def test_vectors_are_what_the_weights_make_of_the_texts(model: tuple[LocalEngine, str]) -> None:
    engine, pooling = model
    card = engine.card.embedding
    assert card is not None
    assert (card.pooling, card.n_values, card.n_ctx) == (pooling, 32, N_POSITIONS)
    assert card.normalizes
    found = vectors_of(engine, *TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        wanted = expected(tiny_bert.ids_of(text), pooling)
        assert np.abs(vector - wanted).max() < 0.02  # llama.cpp keeps its GELU in fp16
        assert similarity(vector, wanted) > 0.9999


def test_a_text_has_the_same_vector_in_any_company(encoder: LocalEngine) -> None:
    draw = np.random.default_rng(1)
    words = [" ".join(draw.choice(tiny_bert.WORDS, n)) for n in draw.integers(1, 40, 150)]
    together = vectors_of(encoder, *words)
    for index in (0, 17, 149):
        (alone,) = vectors_of(encoder, words[index])
        assert np.allclose(alone, together[index], atol=2e-3)


def test_token_ids_are_read_as_they_are(encoder: LocalEngine) -> None:
    from_text, from_ids = vectors_of(encoder, "the dog", tuple(tiny_bert.ids_of("the dog")))
    assert np.array_equal(from_text, from_ids)


def test_special_tokens_that_a_text_spells_out_stay_text(encoder: LocalEngine) -> None:
    (event,) = (
        event
        for event in encoder.embed(EmbeddingRequest(inputs=("dog [SEP] [CLS]",)))
        if isinstance(event, Embedded)
    )
    assert event.n_tokens > len(tiny_bert.ids_of("dog")) + 2


def test_the_stream_begins_with_queued_and_counts_all_tokens(encoder: LocalEngine) -> None:
    events = list(encoder.embed(EmbeddingRequest(inputs=TEXTS)))
    n_tokens = sum(len(tiny_bert.ids_of(text)) for text in TEXTS)
    assert events[0] == Queued(position=0, n_prompt_tokens=n_tokens)
    assert end_of(events).reason == "stop"
    assert end_of(events).usage.prompt_tokens == n_tokens


def test_an_input_that_is_too_long_is_refused_with_both_numbers(encoder: LocalEngine) -> None:
    request = EmbeddingRequest(inputs=("cat", "dog " * 60))
    with pytest.raises(InputTooLong, match=r"input\[1\].* 62 tokens.* 48 tokens") as caught:
        list(encoder.embed(request))
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (62, N_POSITIONS)
    assert caught.value.param == "input[1]"


def test_truncation_keeps_the_beginning_and_the_special_tokens(encoder: LocalEngine) -> None:
    cut, kept, ids = vectors_of(
        encoder,
        "dog " * 60 + "sea",
        "dog " * (N_POSITIONS - 2),
        tuple(tiny_bert.ids_of("dog")[:2] * 100),
        truncate=True,
    )
    assert np.allclose(cut, kept, atol=1e-6)
    assert np.isfinite(ids).all()


def test_an_input_of_the_full_length_is_read(encoder: LocalEngine) -> None:
    (vector,) = vectors_of(encoder, "dog " * (N_POSITIONS - 2))
    ids = tiny_bert.ids_of("dog " * (N_POSITIONS - 2))
    assert similarity(vector, expected(ids, "mean")) > 0.9999


@pytest.mark.parametrize(
    ("inputs", "place"),
    [(((66,),), "input"), (("a", (5, 2**31 - 1)), r"input\[1\]"), (((),), "input")],
)
def test_what_is_no_input_is_refused(encoder: LocalEngine, inputs: Any, place: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{place}.*(vocabulary|empty)"):
        list(encoder.embed(EmbeddingRequest(inputs=inputs)))


def test_a_model_for_vectors_writes_no_answers_and_does_not_rank(encoder: LocalEngine) -> None:
    assert not encoder.card.generates
    with pytest.raises(InvalidRequest, match="gives embeddings and writes no answers"):
        list(encoder.stream(ask()))
    with pytest.raises(InvalidRequest, match="writes no answers"):
        encoder.apply_template(ask())
    with pytest.raises(InvalidRequest, match="does not rank"):
        vectors_of(encoder, "a cat", query="dog")


@pytest.mark.parametrize("kind", ["gguf-mean", "onnx-pooled"])
def test_settings_without_an_effect_on_vectors_are_named(kind: str, tmp_path: Path) -> None:
    """A draft model, for one, was taken without a word."""
    path = MODELS[kind][1](tmp_path)
    options = structs.replace(
        OPTIONS,
        draft_model=tmp_path / "missing.gguf",
        n_parallel=4,
        chat_template="chatml",
        n_gpu_layers=5,
        pooling="cls",
        execution_provider="cuda",
    )
    assert needed_bytes(path, options) == needed_bytes(path, OPTIONS)
    with LocalEngine(path, options) as engine:
        warnings = engine.wait_ready(60).warnings
    expected = {
        "draft_model",
        "n_parallel",
        "chat_template",
        "execution_provider",
        *(("pooling",) if kind == "onnx-pooled" else ()),
        *(() if gpu_names() and kind == "gguf-mean" else ("n_gpu_layers",)),
    }
    assert {warning.split()[0] for warning in warnings} == expected
    assert all("no effect" in warning for warning in warnings)
    with LocalEngine(path, OPTIONS) as engine:
        assert engine.wait_ready(60).warnings == ()


def test_it_shows_its_tokens(encoder: LocalEngine) -> None:
    ids = tuple(tiny_bert.ids_of("the dog"))
    assert encoder.tokenize("the dog", add_special=True, parse_special=False) == ids
    assert encoder.tokenize("dog", add_special=False, parse_special=False) == ids[2:-1]
    assert b"dog" in encoder.detokenize(ids)
    assert encoder.status().state == "ready"


def test_a_worker_that_dies_makes_only_what_is_missing_again(encoder: LocalEngine) -> None:
    texts = tuple(" ".join(tiny_bert.WORDS[: 2 + i % 8]) for i in range(2_000))
    whole = vectors_of(encoder, *texts)
    events: list[EngineEvent] = []
    killed = None
    for event in encoder.embed(EmbeddingRequest(inputs=texts)):
        if isinstance(event, Embedded) and killed is None:
            killed = encoder.worker_pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
        events.append(event)
    assert np.allclose(vectors_in(events), whole, atol=2e-3)
    assert end_of(events).usage.prompt_tokens == sum(
        len(tiny_bert.ids_of(text)) for text in texts[:8]
    ) * (len(texts) // 8)
    encoder.wait_ready(60)


def test_a_cancelled_request_ends_and_leaves_nothing_behind(encoder: LocalEngine) -> None:
    cancellation = Cancellation()
    request = EmbeddingRequest(inputs=("dog " * 40,) * 2_000)
    events = []
    for event in encoder.embed(request, cancellation):
        events.append(event)
        cancellation.cancel()
    assert end_of(events).reason == "cancelled"
    assert len(events) < len(request.inputs)
    vectors_of(encoder, "a cat")  # after whatever is left of it
    assert encoder.status().n_queued == 0
