"""The first use of a model that was opened."""

from __future__ import annotations

import numpy as np

from spillover.runtime.backend import Backend, DecodeFailed, Rows
from spillover.runtime.embedding.embedder import Embedder, InputPart
from spillover.runtime.embedding.opened import OpenedEmbedder, OpenedModel
from spillover.runtime.errors import ModelError


def self_test(opened: OpenedModel | OpenedEmbedder) -> None:
    """Compute one token, so that a miscompiled library crashes here and not during a request.
    Raises ModelError."""
    try:
        if isinstance(opened, OpenedEmbedder):
            _embed_once(opened.embedder)
        else:
            _decode_once(opened.backend)
    except DecodeFailed as error:
        raise ModelError(f"the model cannot be run: {error}") from error


def _decode_once(backend: Backend) -> None:
    backend.decode([Rows(0, 0, np.zeros(1, dtype=np.int32), True)])
    if not np.isfinite(backend.logits(0)).any():
        raise ModelError("the model's first logits are not numbers: its file is damaged")
    backend.keep(0, 0)


def _embed_once(embedder: Embedder) -> None:
    embedder.make_room(1)
    tokens = np.zeros(1, dtype=np.int32)
    (vector,) = embedder.run([InputPart(slot=0, start=0, tokens=tokens, is_last=True)])
    if not np.isfinite(vector).any():
        raise ModelError("the model's first vector is no vector of numbers: its file is damaged")
