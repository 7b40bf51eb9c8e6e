"""Embeddings over HTTP: real servers of tiny encoders, and the official clients."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cohere
import httpx
import huggingface_hub
import numpy as np
import ollama
import openai
import pytest

from tests import tiny_bert
from tests.edge_server.conftest import Server

WEIGHTS = tiny_bert.weights()
TEXTS = ["the dog runs", "a cat", "blue house", "the sea sleeps"]
LONG = "dog " * 60


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Of the same weights in both forms."""
    folder = tmp_path_factory.mktemp("encoder")
    if request.param == "gguf":
        path = tiny_bert.write_gguf(folder / "tiny.gguf", WEIGHTS)
    else:
        path = tiny_bert.write_onnx(folder / "tiny", WEIGHTS)
    server = Server(folder, str(path))
    yield server
    assert server.stop() == 0


@pytest.fixture
def web(encoder: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=encoder.url, timeout=60) as client:
        yield client


@pytest.fixture
def sdk(encoder: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{encoder.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def expected(text: str) -> Any:
    """Of length 1."""
    mean = tiny_bert.hidden_states(WEIGHTS, tiny_bert.ids_of(text)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def close_to(found: Any, wanted: Any) -> bool:
    return bool(np.abs(np.array(found) - wanted).max() < 5e-3)


def sent(client: httpx.Client, path: str, body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx.Client, path: str, body: Any, status: int = 400) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


# --- OpenAI -------------------------------------------------------------------------------------


def test_the_official_client_gets_the_vectors_of_texts(sdk: openai.OpenAI) -> None:
    """It asks for base64 by itself."""
    answer = sdk.embeddings.create(model="any", input=TEXTS)
    assert [entry.index for entry in answer.data] == [0, 1, 2, 3]
    for text, entry in zip(TEXTS, answer.data, strict=True):
        assert close_to(entry.embedding, expected(text))
        assert np.linalg.norm(entry.embedding) == pytest.approx(1, abs=1e-5)
    n_tokens = sum(len(tiny_bert.ids_of(text)) for text in TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == n_tokens
    assert answer.model == "tiny"


def test_both_formats_hold_the_same_numbers(sdk: openai.OpenAI) -> None:
    as_float = sdk.embeddings.create(model="x", input="the dog", encoding_format="float")
    as_text: Any = sdk.embeddings.create(model="x", input="the dog", encoding_format="base64")
    decoded = np.frombuffer(base64.b64decode(as_text.data[0].embedding), dtype="<f4")
    assert np.array_equal(decoded, np.array(as_float.data[0].embedding, dtype=np.float32))


def test_token_ids_and_mixed_lists(web: httpx.Client, sdk: openai.OpenAI) -> None:
    ids = tiny_bert.ids_of("the dog")
    from_text, from_ids = sdk.embeddings.create(model="x", input=[ids, ids]).data
    assert from_text.embedding == from_ids.embedding
    (one,) = sdk.embeddings.create(model="x", input=ids).data
    assert close_to(one.embedding, expected("the dog"))
    mixed = sent(web, "/v1/embeddings", {"input": ["the dog", ids, [2, "dog", 3]]})
    assert close_to(mixed["data"][1]["embedding"], mixed["data"][0]["embedding"])
    assert len(mixed["data"]) == 3


def test_fewer_dimensions_have_the_length_one_again(sdk: openai.OpenAI) -> None:
    (cut,) = sdk.embeddings.create(model="x", input="the dog", dimensions=8).data
    wanted = expected("the dog")[:8]
    assert close_to(cut.embedding, wanted / np.linalg.norm(wanted))
    with pytest.raises(openai.BadRequestError, match="dimensions must be from 1 to 32"):
        sdk.embeddings.create(model="x", input="the dog", dimensions=33)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        sdk.embeddings.create(model="x", input="the dog", dimensions=0)


def test_what_is_too_long_is_a_400_with_both_numbers(web: httpx.Client) -> None:
    error = refused(web, "/v1/embeddings", {"input": ["a cat", LONG]})["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (62, 48)
    assert error["param"] == "input[1]"
    assert "62 tokens" in error["message"]
    assert "48 tokens" in error["message"]
    cut = sent(web, "/v1/embeddings", {"input": LONG, "truncate": True})
    assert cut["usage"]["prompt_tokens"] == 48


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {"content": "x"}}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[1], [99_999]]}, "input[1]"),
        ({"input": [2**40]}, "input[0]"),
        ({"input": ["x"] * 2_049}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": "8"}, "dimensions"),
    ],
)
def test_bad_bodies_name_the_field(web: httpx.Client, body: Any, param: str) -> None:
    assert refused(web, "/v1/embeddings", body)["error"]["param"] == param


def test_half_a_surrogate_pair_is_no_error(web: httpx.Client) -> None:
    body = b'{"input": ["dog \\ud83d", "the dog"]}'
    headers = {"Content-Type": "application/json"}
    response = web.post("/v1/embeddings", content=body, headers=headers)
    assert response.status_code == 200
    assert len(response.json()["data"]) == 2


def test_chat_says_what_the_model_is_for(web: httpx.Client, sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="gives embeddings and writes no answers"):
        sdk.chat.completions.create(model="x", messages=[{"role": "user", "content": "hi"}])
    for path, body in (
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("/api/generate", {"prompt": "hi"}),
        ("/completion", {"prompt": "hi"}),
        ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/rerank", {"query": "hi", "documents": ["x"]}),
    ):
        assert "tiny" in str(refused(web, path, body))


def test_the_model_is_listed_with_what_it_can(encoder: Server, web: httpx.Client) -> None:
    entry, *_ = web.get("/v1/models").json()["data"]
    assert entry["capabilities"] == ["embeddings"]
    assert entry["context_length"] == entry["max_model_len"] == 48
    assert entry["meta"]["n_embd"] == 32
    shown = sent(web, "/api/show", {"model": "tiny"})
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["bert.embedding_length"] == 32
    assert web.get("/health").json() == {"status": "ok"}
    assert web.get("/slots").json() == []
    assert "vectors" in encoder.said


def test_many_large_requests_at_once(encoder: Server) -> None:
    """More connections than threads begin a request."""
    import concurrent.futures

    def ask(number: int) -> int:
        texts = [tiny_bert.WORDS[number % 8] + " house" * (i % 9) for i in range(100)]
        response = httpx.post(f"{encoder.url}/v1/embeddings", json={"input": texts}, timeout=60)
        return len(response.json()["data"]) if response.status_code == 200 else -1

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == [100] * 24


# --- llama.cpp, Ollama, Cohere, Hugging Face ----------------------------------------------------


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_cpps_own_form(web: httpx.Client, path: str) -> None:
    first, second = sent(web, path, {"content": ["the dog", "a cat"]})
    assert (first["index"], second["index"]) == (0, 1)
    assert close_to(first["embedding"][0], expected("the dog"))
    (plain,) = sent(web, path, {"input": "the dog", "embd_normalize": -1})
    assert np.linalg.norm(plain["embedding"][0]) > 1.5
    (largest,) = sent(web, path, {"input": "the dog", "embd_normalize": 0})
    assert np.abs(largest["embedding"][0]).max() == pytest.approx(32_760, rel=1e-4)
    (taxicab,) = sent(web, path, {"input": "the dog", "embd_normalize": 1})
    assert np.abs(taxicab["embedding"][0]).sum() == pytest.approx(1, rel=1e-4)
    assert refused(web, path, {})["error"]["code"] == 400


def test_ollamas_client(encoder: Server, web: httpx.Client) -> None:
    with closing(ollama.Client(host=encoder.url)) as client:
        answer = client.embed(model="tiny", input=TEXTS)
        assert all(map(close_to, answer.embeddings, map(expected, TEXTS)))
        assert answer.prompt_eval_count == sum(len(tiny_bert.ids_of(text)) for text in TEXTS)
        assert (answer.total_duration or 0) > 0
        assert answer.load_duration == 0
        small = client.embed(model="tiny", input="the dog", dimensions=8)
        assert len(small.embeddings[0]) == 8
        assert client.embed(model="tiny", input=LONG).prompt_eval_count == 48
        with pytest.raises(ollama.ResponseError, match=r"62 tokens.* 48 tokens"):
            client.embed(model="tiny", input=LONG, truncate=False)
        old = client.embeddings(model="tiny", prompt="the dog")
        assert close_to(old.embedding, expected("the dog"))
        assert client.embed(model="tiny", input=[]).embeddings == []
        assert len(client.embed(model="tiny", input=["", ""]).embeddings) == 2
        assert client.embed(model="tiny", input="").embeddings == []
    assert sent(web, "/api/embeddings", {"model": "tiny", "prompt": ""}) == {"embedding": []}


def test_coheres_client(encoder: Server, web: httpx.Client) -> None:
    client = cohere.ClientV2(api_key="unused", base_url=encoder.url, httpx_client=web)
    answer = client.embed(
        model="tiny", input_type="search_document", texts=TEXTS, embedding_types=["float"]
    )
    assert answer.embeddings.float_ is not None
    assert all(map(close_to, answer.embeddings.float_, map(expected, TEXTS)))
    small = client.embed(
        model="tiny",
        input_type="search_query",
        texts=[LONG],
        embedding_types=["float", "base64"],
        output_dimension=8,
    )
    assert small.embeddings.float_ is not None
    assert small.embeddings.base64 is not None
    assert len(small.embeddings.float_[0]) == 8
    assert len(base64.b64decode(small.embeddings.base64[0])) == 32
    with pytest.raises(cohere.BadRequestError, match="62 tokens"):
        client.embed(model="tiny", input_type="search_query", texts=[LONG], truncate="NONE")
    with pytest.raises(cohere.BadRequestError, match="embedding_types"):
        client.embed(model="tiny", input_type="search_query", texts=["a"], embedding_types=["int8"])


def test_hugging_faces_client(encoder: Server, web: httpx.Client) -> None:
    client = huggingface_hub.InferenceClient()
    (found,) = client.feature_extraction("the dog", model=f"{encoder.url}/embed")
    assert close_to(found, expected("the dog"))
    several = sent(web, "/embed", {"inputs": TEXTS, "normalize": False})
    assert len(several) == 4
    assert np.linalg.norm(several[0]) > 1.5
    error = refused(web, "/embed", {"inputs": LONG})
    assert "62 tokens" in error["error"]


# --- ranking ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ranker")
    server = Server(folder, str(tiny_bert.write_onnx(folder / "rank", RANKING)))
    yield server
    assert server.stop() == 0


RANKING = tiny_bert.weights(n_labels=1)
QUERY = "the dog runs"
DOCUMENTS = ["a cat sleeps", "the dog", "blue sea", "a tree the house"]


def score(document: str) -> float:
    query, document_ids = tiny_bert.ids_of(QUERY), tiny_bert.ids_of(document)[1:]
    states = tiny_bert.hidden_states(
        RANKING, query + document_ids, types=[0] * len(query) + [1] * len(document_ids)
    )
    return float(tiny_bert.scored(RANKING, states)[0])


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/reranking", "/v2/rerank"])
def test_documents_come_back_best_first(ranker: Server, path: str) -> None:
    with httpx.Client(base_url=ranker.url, timeout=60) as web:
        body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": True}
        answer = sent(web, path, body)
        order = sorted(range(4), key=lambda i: -score(DOCUMENTS[i]))
        assert [result["index"] for result in answer["results"]] == order
        for result in answer["results"]:
            wanted = 1 / (1 + np.exp(-score(DOCUMENTS[result["index"]])))
            assert result["relevance_score"] == pytest.approx(wanted, abs=5e-3)
            assert result["document"] == {"text": DOCUMENTS[result["index"]]}
        n_tokens = sum(
            len(tiny_bert.ids_of(QUERY)) + len(tiny_bert.ids_of(each)) - 1 for each in DOCUMENTS
        )
        assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        top = sent(web, path, {"query": QUERY, "documents": DOCUMENTS, "top_n": 2})
        assert [result["index"] for result in top["results"]] == order[:2]
        assert "document" not in top["results"][0]


def test_raw_scores_and_the_form_of_text_embeddings_inference(ranker: Server) -> None:
    with httpx.Client(base_url=ranker.url, timeout=60) as web:
        body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True}
        for entry in sent(web, "/rerank", body):
            assert entry["score"] == pytest.approx(score(entry["text"]), abs=5e-3)


def test_coheres_client_ranks(ranker: Server) -> None:
    with httpx.Client(timeout=60) as http:
        client = cohere.ClientV2(api_key="unused", base_url=ranker.url, httpx_client=http)
        answer = client.rerank(model="rank", query=QUERY, documents=DOCUMENTS, top_n=3)
        assert len(answer.results) == 3
        assert answer.results[0].relevance_score >= answer.results[2].relevance_score


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"query": "x"}, "documents"),
        ({"documents": ["x"]}, "query"),
        ({"query": "x", "documents": []}, "documents"),
        ({"query": "x", "documents": [1, 2]}, "documents[0]"),
        ({"query": "x", "documents": ["x"], "top_n": 0}, "top_n"),
        ({"query": "x", "documents": ["a", LONG]}, "documents[1]"),
        ({"query": "x", "texts": ["a", LONG]}, "texts[1]"),
        ({"query": LONG, "documents": ["a"], "truncate": True}, "query"),
    ],
)
def test_bad_requests_for_a_ranking(ranker: Server, body: Any, word: str) -> None:
    with httpx.Client(base_url=ranker.url, timeout=60) as web:
        assert refused(web, "/v1/rerank", body)["error"]["param"] == word


def test_a_model_that_ranks_says_so(ranker: Server) -> None:
    with httpx.Client(base_url=ranker.url, timeout=60) as web:
        entry, *_ = web.get("/v1/models").json()["data"]
        assert entry["capabilities"] == ["rerank"]
        assert "ranks documents" in str(refused(web, "/v1/embeddings", {"input": "x"}))


# --- beside answers -----------------------------------------------------------------------------


def test_a_model_that_answers_gives_vectors_too(client: openai.OpenAI, http: httpx.Client) -> None:
    first, second = client.embeddings.create(model="x", input=["A dog.", "A cat."]).data
    assert np.linalg.norm(first.embedding) == pytest.approx(1, abs=1e-5)
    assert first.embedding != second.embedding
    assert "rank" in str(refused(http, "/v1/rerank", {"query": "x", "documents": ["y"]}))


def test_a_client_that_leaves_ends_its_request(client: openai.OpenAI, server: Server) -> None:
    """Otherwise the archive would hold up whoever comes next for minutes."""
    archive = {"input": ["The fox was happy and lived in a forest. " * 40] * 2_000}
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{server.url}/v1/embeddings", json=archive, timeout=1)
    answer = client.embeddings.create(model="x", input="A dog.", timeout=60)
    assert len(answer.data) == 1


def test_under_another_server_the_answers_are_the_same(tmp_path: Path) -> None:
    """The views are plain Flask."""
    from spillover.cloud_fallback.route.router import Router
    from spillover.edge_server.answers.service import Service
    from spillover.edge_server.config.settings import Settings
    from spillover.edge_server.web.app import create_app
    from spillover.runtime.local_engine import LocalEngine
    from spillover.runtime.options import EngineOptions

    path = tiny_bert.write_gguf(tmp_path / "tiny.gguf", WEIGHTS)
    settings = Settings()
    with LocalEngine(path, EngineOptions(n_threads=1)) as engine:
        engine.wait_ready(60)
        with Router.open(engine, settings.cloud, {}) as router:
            service = Service(engine, router, max_answers=4, max_generation_s=60)
            web = create_app(service, settings).test_client()
            answer = web.post("/v1/embeddings", json={"input": "the dog"})
            assert close_to(answer.get_json()["data"][0]["embedding"], expected("the dog"))
            assert web.post("/v1/embeddings", json={"input": LONG}).status_code == 400
            service.close()
