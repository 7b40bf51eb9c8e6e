"""What opening the file of a model yields."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.runtime.backend import Backend, Vocabulary
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.embedding.embedder import Embedder
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.context_fit import ContextFit


class OpenedModel(Struct, frozen=True, kw_only=True):
    """A model that writes answers, and how its context was laid out."""

    backend: Backend
    fit: ContextFit
    weights: tuple[Path, ...]
    """The files that hold its weights."""
    speed_facts: tuple[object, ...]
    """What its speed depends on, besides *backend.info*."""
    embedder: Embedder | None = None
    """Makes vectors with the same weights, if that is possible."""
    memory: DeviceBytes | None = None
    """See ModelCard; and the next."""
    gpu_free_bytes: tuple[int, ...] = ()


class OpenedEmbedder(Struct, frozen=True, kw_only=True):
    """A model that makes vectors or scores and nothing else."""

    embedder: Embedder
    vocabulary: Vocabulary
    card: ModelCard
    """Without the model's name and path."""


def writer(opened: OpenedModel | OpenedEmbedder, path: Path) -> OpenedModel:
    """*opened*, if it writes answers. Raises ModelError."""
    if isinstance(opened, OpenedEmbedder):
        opened.embedder.close()
        raise ModelError(f"{path} is made for embeddings or rankings: it writes no answers")
    return opened
