"""Constraints that begin later: after the model has thought, or where it opens a tool call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spillover.runtime.backend import Constraint, Mask
from spillover.runtime.structured_output.vocabulary import Vocabulary, mask_of


class AfterMarker:
    """Free text until *marker* has been written; then what *make* gives.

    Behind the marker only white space may stand in the same token, which both sides overlook.
    *may_end*: the answer may end without the marker. *repeats*: text is free again after each
    constrained part.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        marker: str,
        make: Callable[[], Constraint],
        *,
        may_end: bool,
        repeats: bool,
    ) -> None:
        self._vocabulary = vocabulary
        self._marker = marker.encode()
        self._make = make
        self._may_end = may_end
        self._repeats = repeats
        self._tail = b""
        self._inner: Constraint | None = None

    @property
    def has_failed(self) -> bool:
        return self._inner is not None and self._inner.has_failed

    @property
    def is_complete(self) -> bool:
        return self._inner is not None and self._inner.is_complete

    def allows(self, token: int) -> bool:
        if self._inner is not None:
            return self._inner.allows(token)
        if token in self._vocabulary.eog_tokens:
            return self._may_end
        return not self._overshoots(token)

    def _overshoots(self, token: int) -> bool:
        """Whether *token* completes the marker and goes on with text."""
        _, found, rest = (self._tail + self._vocabulary.shown(token)).partition(self._marker)
        return bool(found and rest.strip())

    def mask(self) -> Mask:
        if self._inner is not None:
            return self._inner.mask()
        vocabulary = self._vocabulary
        mask = vocabulary.any_mask.copy()
        if self._may_end:
            mask |= vocabulary.eog_mask
        for token in vocabulary.with_byte(self._marker[-1]):
            if self._overshoots(token):
                mask[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
        return mask

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
            if self._repeats and self._inner.is_complete:
                self._inner = None
            return
        text = self._tail + self._vocabulary.shown(token)
        if self._marker in text:
            self._inner, self._tail = self._make(), b""
        else:
            self._tail = text[-len(self._marker) + 1 :] if len(self._marker) > 1 else b""


class MayOpen:
    """*plain* from the start, or after *opening* (tokens) what *make* gives: for a model that
    may, or may not, think before it answers."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        opening: Sequence[int],
        plain: Constraint,
        make: Callable[[], Constraint],
    ) -> None:
        self._vocabulary = vocabulary
        self._left = list(opening)
        self._chosen = plain
        self._fits = True
        """Whether the part of the opening that was written may also begin what follows *plain*."""
        self._make = make

    @property
    def has_failed(self) -> bool:
        return self._chosen.has_failed

    @property
    def is_complete(self) -> bool:
        return self._fits and self._chosen.is_complete

    def allows(self, token: int) -> bool:
        if self._left and token == self._left[0]:
            return True
        return self._fits and self._chosen.allows(token)

    def mask(self) -> Mask:
        if not self._left:
            return self._chosen.mask()
        bits = np.zeros(32 * self._vocabulary.n_words, dtype=np.bool_)
        bits[self._left[0]] = True
        return mask_of(bits) | self._chosen.mask() if self._fits else mask_of(bits)

    def accept(self, token: int) -> None:
        opens = bool(self._left) and token == self._left[0]
        self._fits = self._fits and (not opens or self._chosen.allows(token))
        if self._fits:
            self._chosen.accept(token)
        if not opens:
            self._left.clear()
        elif len(self._left) > 1:
            self._left.pop(0)
        else:
            self._left.clear()
            self._chosen, self._fits = self._make(), True
