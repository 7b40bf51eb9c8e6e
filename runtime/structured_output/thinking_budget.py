"""Ends a model's reasoning after so many tokens, so that it answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spillover.runtime.backend import Constraint, Mask
from spillover.runtime.structured_output.vocabulary import Vocabulary, mask_of
from spillover.runtime.text.template_tags import TagPair


class Free:
    """Any answer."""

    is_complete = False
    has_failed = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._mask = vocabulary.any_mask | vocabulary.eog_mask

    def allows(self, token: int) -> bool:
        return True

    def mask(self) -> Mask:
        return self._mask

    def accept(self, token: int) -> None:
        pass


class ThinkingBudget:
    """*inner*, but reasoning between the tags of *pair* has at most *n_most* tokens. Then
    *closing*, the tokens of the closing tag, must come. The answer cannot end inside, nor before
    it has begun.

    *is_inside*: the prompt has opened the tags; otherwise the answer may begin with them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        pair: TagPair,
        closing: Sequence[int],
        inner: Constraint,
        n_most: int,
        *,
        is_inside: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._open, self._close = pair.open.encode(), pair.close.encode()
        self._closing = list(closing)
        self._inner = inner
        self._n_left = n_most
        self._state = "inside" if is_inside else "before"
        self._tail = b""

    @property
    def is_complete(self) -> bool:
        return self._inner.is_complete

    @property
    def has_failed(self) -> bool:
        return self._inner.has_failed

    @property
    def _is_forced(self) -> bool:
        return self._state == "inside" and self._n_left <= 0 and bool(self._closing)

    @property
    def _cannot_end(self) -> bool:
        return self._state in ("inside", "silent") and not self._inner.has_failed

    def allows(self, token: int) -> bool:
        if self._is_forced:
            return token == self._closing[0]
        if self._cannot_end and token in self._vocabulary.eog_tokens:
            return False
        return self._inner.allows(token)

    def mask(self) -> Mask:
        if self._is_forced:
            bits = np.zeros(32 * self._vocabulary.n_words, dtype=np.bool_)
            bits[self._closing[0]] = True
            return mask_of(bits)
        if self._cannot_end:
            return self._inner.mask() & ~self._vocabulary.eog_mask
        return self._inner.mask()

    def accept(self, token: int) -> None:
        self._inner.accept(token)
        if self._state == "after":
            return
        if self._is_forced:
            self._closing.pop(0)
            if not self._closing:
                self._state = "silent"
            return
        if self._state == "silent":
            if self._vocabulary.shown(token).strip():
                self._state = "after"
            return
        self._tail += self._vocabulary.shown(token)
        if self._state == "before":
            self._look_for_opening()
        else:
            self._n_left -= 1
            if self._close in self._tail:
                self._state = "silent"
            self._tail = self._tail[-len(self._close) :]

    def _look_for_opening(self) -> None:
        start = self._tail.lstrip()
        if start.startswith(self._open):
            self._state, self._tail = "inside", b""
        elif not self._open.startswith(start):
            self._state = "after"
