"""A model as the lists of models tell it."""

from __future__ import annotations

from typing import Any

from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.wire.capabilities import longest_request
from spillover.edge_server.wire.gemini.answer import gemini_model


def longest_of(model: ServedModel) -> int:
    """The most tokens of a request and its answer: as it was loaded, else what is known of the
    file; 0 where nothing is."""
    if model.card is not None:
        return longest_request(model.card)
    return 0 if model.entry is None else model.entry.n_ctx or 0


def size_of(model: ServedModel) -> int:
    """Bytes of the weights, or of the file before it was loaded; 0 where that is gone."""
    if model.card is not None:
        return model.card.size_bytes
    try:
        return 0 if model.entry is None else model.entry.size_bytes or model.entry.n_bytes_on_disk
    except OSError:
        return 0


def description_of(model: ServedModel) -> str:
    if model.card is not None:
        return model.card.description
    return "" if model.entry is None else model.entry.description


def gemini_entry(model: ServedModel) -> dict[str, Any]:
    """As Gemini lists it."""
    n_ctx = longest_of(model) if model.card is None else model.card.n_ctx
    return gemini_model(model.name, description_of(model), n_ctx)


def status_of(model: ServedModel) -> dict[str, Any]:
    """Whether it is loaded; `value` as llama.cpp's server has it."""
    if model.hosted is None:
        return {"value": "loaded"}
    state = model.hosted.state()
    return {
        "value": state.state,
        "progress": state.progress,
        "n_ahead": state.n_ahead,
        "n_answers": state.n_answers,
        "n_waiting": state.n_waiting,
        "memory_bytes": state.held_bytes,
        "expires_in_s": state.expires_in_s,
        "pinned": state.is_pinned,
        "error": state.error,
    }
