"""Ranking documents by a query, as Jina, Cohere and llama.cpp's server ask for it, and as Text
Embeddings Inference does (*texts* instead of *documents*)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from spillover.edge_server.wire import cohere
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest
from spillover.edge_server.wire.embeddings import ScoresEncoder, checked
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.openai.answer import error_body
from spillover.edge_server.wire.openai.embeddings import usage
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.embedding_request import MAX_INPUTS, EmbeddingRequest
from spillover.runtime.engine import TextEngine
from spillover.runtime.events import Finished
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode


class Document(Struct, frozen=True, kw_only=True):
    text: str


class RerankBody(Struct, frozen=True, kw_only=True):
    """POST /v1/rerank and the like."""

    query: str
    model: str | None = None
    documents: (
        Annotated[tuple[str | Document, ...], Meta(min_length=1, max_length=MAX_INPUTS)] | None
    ) = None
    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_INPUTS)] | None = None
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/rerank, /v1/reranking, /rerank, /reranking."""
    return _planned(asked, Ranking)


def plan_cohere(asked: AnswerRequest) -> AnswerPlan:
    """POST /v2/rerank."""
    return _planned(asked, CohereRanking)


def _planned(asked: AnswerRequest, kind: type[Ranking]) -> AnswerPlan:
    body = decode(asked.content, RerankBody)
    field = "documents" if body.texts is None else "texts"
    documents = body.documents if body.texts is None else body.texts
    if documents is None:
        raise bad_request("documents is missing: give a list of texts", "documents")
    texts = tuple(each if isinstance(each, str) else each.text for each in documents)
    request = EmbeddingRequest(
        inputs=texts, query=body.query, truncate=bool(body.truncate), field=field
    )
    shows_texts = body.return_documents if body.texts is None else body.return_text
    told = Told(
        model=asked.engine.name,
        answer_id=asked.options.id,
        texts=texts if shows_texts else None,
        top_n=body.top_n,
        is_logit=_is_logit(asked.engine) and not body.raw_scores,
    )
    encoder = (kind if body.texts is None else RankingOfTexts)(len(texts), told)
    return AnswerPlan(requests=(checked(request),), encoder=encoder, options=asked.options)


def _is_logit(engine: TextEngine) -> bool:
    card = engine.card.embedding
    return card is not None and card.is_logit


class Told(Struct, frozen=True, kw_only=True):
    """What a ranking says besides the scores, and how."""

    model: str
    answer_id: str
    texts: tuple[str, ...] | None
    """The documents, where they are to be sent back."""
    top_n: int | None
    is_logit: bool


class Ranking(ScoresEncoder):
    """One object with results, best first: what Jina's and Cohere's clients look for together."""

    error_body = staticmethod(error_body)

    def __init__(self, n_inputs: int, told: Told) -> None:
        super().__init__(n_inputs, top_n=told.top_n, is_logit=told.is_logit)
        self._told = told

    def body(self, finished: Finished) -> bytes:
        told, results = self._told, []
        for ranked in self.ranking():
            result: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
            if told.texts is not None:
                result["document"] = {"text": valid_text(told.texts[ranked.index])}
            results.append(result)
        return _json(
            {
                "id": told.answer_id,
                "object": "list",
                "model": told.model,
                "results": results,
                "usage": usage(finished),
                "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
            }
        )


class RankingOfTexts(Ranking):
    """An array, best first."""

    def body(self, finished: Finished) -> bytes:
        texts = self._told.texts
        return _json(
            [
                {"index": ranked.index, "score": ranked.score}
                | ({} if texts is None else {"text": valid_text(texts[ranked.index])})
                for ranked in self.ranking()
            ]
        )


class CohereRanking(Ranking):
    """The same, with Cohere's errors."""

    error_body = staticmethod(cohere.error_body)
