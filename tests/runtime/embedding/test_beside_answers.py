"""Vectors of a model that also answers: the storyteller in a real worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.embedding_request import EmbeddingRequest
from spillover.runtime.errors import InputTooLong, InvalidRequest
from spillover.runtime.events import Embedded, Finished, Queued
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions, PoolingChoice
from tests.answers import ask, end_of, text_of
from tests.runtime.embedding.vectors import similarity, vectors_of

TEXT = "The fox Ruby lived in a forest. She liked to run and to play with her friend Max. " * 30


def options(folder: Path, pooling: PoolingChoice = "auto") -> EngineOptions:
    return EngineOptions(n_threads=1, n_parallel=2, cache_dir=folder, pooling=pooling)


@pytest.fixture(scope="module")
def engine(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    with LocalEngine(model_path, options(tmp_path_factory.mktemp("cache"))) as engine:
        engine.wait_ready(60)
        yield engine


def test_its_vectors_are_means(engine: LocalEngine) -> None:
    card = engine.card.embedding
    assert card is not None
    assert (card.pooling, card.n_ctx) == ("mean", engine.card.n_ctx)
    fox, dog = vectors_of(engine, "The fox was happy.", "A dog was sad.")
    assert fox.shape == (card.n_values,)
    assert similarity(fox, dog) < 0.999


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_an_input_read_in_parts_has_the_vector_that_llama_cpp_makes_of_it_whole(
    model_path: Path, tmp_path: Path, pooling: PoolingChoice
) -> None:
    import llama_cpp

    types = {
        "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
        "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
        "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    }
    whole = llama_cpp.Llama(
        str(model_path),
        embedding=True,
        pooling_type=types[pooling],
        n_ctx=1024,
        n_batch=1024,
        n_ubatch=1024,
        n_threads=1,
        verbose=False,
    )
    try:
        with LocalEngine(model_path, options(tmp_path, pooling)) as engine:
            engine.wait_ready(60)
            ids = engine.tokenize(TEXT, add_special=True, parse_special=False)
            assert len(ids) > 600  # more than one call reads
            wanted = np.array(whole.embed(TEXT, normalize=False))
            (found, again) = vectors_of(engine, TEXT, TEXT)
            assert similarity(found, wanted) > 0.999
            assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
            assert similarity(found, again) > 0.9999
    finally:
        whole.close()


def test_an_input_longer_than_the_context_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(InputTooLong):
        vectors_of(engine, TEXT * 10)
    (cut,) = vectors_of(engine, TEXT * 10, truncate=True)
    assert np.isfinite(cut).all()


def test_answers_are_the_same_before_and_after(engine: LocalEngine) -> None:
    before = text_of(engine.stream(ask(max_tokens=20)))
    vectors_of(engine, *["The fox was happy."] * 20)
    assert text_of(engine.stream(ask(max_tokens=20))) == before


def test_an_answer_does_not_wait_for_an_archive(engine: LocalEngine) -> None:
    """The archive would take many times as long as the answer."""
    archive = engine.embed(EmbeddingRequest(inputs=(TEXT,) * 200))
    assert isinstance(next(archive), Queued)
    assert isinstance(next(archive), Embedded)
    n_made = [1]
    ended = threading.Event()

    def read() -> None:
        for event in archive:
            n_made[0] += isinstance(event, Embedded)
            if ended.is_set() and not isinstance(event, Finished):
                break

    reader = threading.Thread(target=read)
    reader.start()
    try:
        answer = list(engine.stream(ask(max_tokens=12)))
    finally:
        ended.set()
        reader.join()
        archive.close()
    assert end_of(answer).usage.completion_tokens > 0
    assert n_made[0] < 200


def test_vectors_are_made_while_answers_are_written(engine: LocalEngine) -> None:
    stream = engine.stream(ask(max_tokens=200, n=2))
    assert isinstance(next(stream), Queued)
    assert len(vectors_of(engine, TEXT, "The fox was happy.")) == 2
    stream.close()


def test_onnx_models_that_only_answer_say_that_they_give_no_vectors(tmp_path: Path) -> None:
    from spillover.models.catalogue import find

    path = Path(find("storyteller-onnx").path)
    with LocalEngine(path, options(tmp_path)) as engine:
        assert engine.wait_ready(60).embedding is None
        with pytest.raises(InvalidRequest, match="gives no embeddings"):
            vectors_of(engine, "fox")
