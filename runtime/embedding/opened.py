"""What opening the file of a model yields."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.backend import Backend, Vocabulary
from spillover.runtime.embedding.embedder import Embedder
from spillover.runtime.engine import ModelCard
from spillover.runtime.memory_fit import ContextFit


class OpenedModel(Struct, frozen=True, kw_only=True):
    """A model that writes answers, and how its context was laid out."""

    backend: Backend
    fit: ContextFit
    speed_facts: tuple[object, ...]
    """What its speed depends on, besides *backend.info*."""
    embedder: Embedder | None = None
    """Makes vectors with the same weights, if that is possible."""


class OpenedEmbedder(Struct, frozen=True, kw_only=True):
    """A model that makes vectors or scores and nothing else."""

    embedder: Embedder
    vocabulary: Vocabulary
    card: ModelCard
    """Without the model's name and path."""
