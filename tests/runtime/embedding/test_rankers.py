"""Tiny models that rank, in real workers."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import pytest

from spillover.runtime.errors import InputTooLong, InvalidRequest
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests import tiny_bert
from tests.answers import ask
from tests.runtime.embedding.vectors import vectors_of

WEIGHTS = tiny_bert.weights(n_labels=1)
QUERY = "the dog runs"
DOCUMENTS = ("a cat sleeps", "the dog", "blue sea", "a tree the house", "dog runs dog runs")


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def ranker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "gguf":
        path = tiny_bert.write_gguf(folder / "rank.gguf", WEIGHTS, gguf.PoolingType.RANK)
    else:
        path = tiny_bert.write_onnx(folder / "ranker", WEIGHTS)
    with LocalEngine(path, EngineOptions(n_threads=1)) as engine:
        engine.wait_ready(60)
        yield engine


def expected(document: str, *, has_segments: bool) -> float:
    """llama.cpp counts all tokens as those of a first text."""
    query, document_ids = tiny_bert.ids_of(QUERY), tiny_bert.ids_of(document)[1:]
    segments = [0] * len(query) + [int(has_segments)] * len(document_ids)
    states = tiny_bert.hidden_states(WEIGHTS, query + document_ids, types=segments)
    return float(tiny_bert.scored(WEIGHTS, states)[0])


def test_scores_are_what_the_weights_make_of_query_and_document(ranker: LocalEngine) -> None:
    card = ranker.card.embedding
    assert card is not None
    assert (card.pooling, card.n_values, card.is_logit) == ("rank", 1, True)
    scores = vectors_of(ranker, *DOCUMENTS, query=QUERY)
    wanted = [expected(each, has_segments=ranker.name == "ranker") for each in DOCUMENTS]
    assert np.abs(scores[:, 0] - wanted).max() < 0.02


def test_only_the_document_is_cut(ranker: LocalEngine) -> None:
    long = "blue sea " * 40
    with pytest.raises(InputTooLong, match=r"document\[1\].* 86 tokens.* 48 tokens"):
        vectors_of(ranker, "a cat", long, query=QUERY, field="document")
    n_left = tiny_bert.CONFIG["max_position_embeddings"] - len(tiny_bert.ids_of(QUERY)) - 1
    kept = " ".join(long.split()[:n_left])
    cut, whole = vectors_of(ranker, long, kept, query=QUERY, truncate=True)
    assert np.allclose(cut, whole, atol=1e-4)
    with pytest.raises(InvalidRequest, match="no document fits beside it"):
        vectors_of(ranker, "a cat", query="dog " * 60, truncate=True)


def test_a_model_that_ranks_gives_no_vectors_and_no_answers(ranker: LocalEngine) -> None:
    with pytest.raises(InvalidRequest, match="ranks documents and gives no embeddings"):
        vectors_of(ranker, "a cat")
    with pytest.raises(InvalidRequest, match="ranks documents and writes no answers"):
        list(ranker.stream(ask()))
