"""What a model can do, as the lists of models tell it."""

from __future__ import annotations

from typing import Any

from spillover.runtime.engine import ModelCard


def capabilities(card: ModelCard) -> list[str]:
    """In the words of /v1/models. Vectors of a model that was made for answers do not count."""
    if not card.generates:
        ranks = card.embedding is not None and card.embedding.pooling == "rank"
        return ["rerank" if ranks else "embeddings"]
    return [
        "completion",
        *(["tools"] if card.has_chat_template else []),
        *(["reasoning"] if card.has_reasoning else []),
        "structured_output",
        *(["insert"] if card.fim is not None else []),
    ]


def ollama_capabilities(card: ModelCard | None, *, sees_images: bool) -> list[str]:
    """The same in Ollama's words, which has none for structured output and rankings. None: the
    model was never loaded, and is taken for one that answers."""
    words = {
        "reasoning": "thinking",
        "structured_output": None,
        "embeddings": "embedding",
        "rerank": None,
    }
    own = ["completion"] if card is None else capabilities(card)
    known = [word for word in (words.get(name, name) for name in own) if word]
    return [*known, "vision"] if sees_images and "completion" in known else known


def modalities(*, sees_images: bool) -> dict[str, Any]:
    """What requests and answers may hold. *sees_images*: a provider may answer about images."""
    return {"input": ["text", "image"] if sees_images else ["text"], "output": ["text"]}


def longest_request(card: ModelCard) -> int:
    """The most tokens of a prompt and its answer: sequences share their cells."""
    return min(card.n_ctx, card.n_kv)
