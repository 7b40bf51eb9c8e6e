"""The layouts of one model that were tried: which one failed last, and what may be tried next."""

from __future__ import annotations

import re

from spillover.runtime.fit.back_off import FailedFit, Free, LoadStage, least
from spillover.runtime.fit.context_fit import ContextFit

MOST_TRIES = 16
"""Layouts that are tried for one load; each is clearly smaller than the one before."""
MOST_GUESSES = 3
"""Layouts that are tried in a row after crashes that say nothing of memory."""

_DEVICE = re.compile("cuda|vulkan|metal|rocm|hip|sycl|opencl|device", re.IGNORECASE)
"""What a library calls a GPU that has no memory left."""


class Tries:
    """Follows the workers that load one model, one after the other."""

    def __init__(self) -> None:
        self.failed: FailedFit | None = None
        """What the next worker has to go below; None: it begins with its own plan."""
        self.has_smaller = True
        """Whether a layout below the planned one may be left: one that has served and is the
        smallest is planned again."""
        self._n_failed = self._n_guesses = 0
        self._planned: tuple[ContextFit, LoadStage] | None = None
        self._free: Free | None = None
        """The least with which one was planned."""
        self._refusal, self._is_on_device = "", False
        self.served: ContextFit | None = None
        """The layout that was last loaded."""

    def begin(self) -> None:
        """A worker starts."""
        self._planned, self._refusal, self._is_on_device = None, "", False

    def plan(self, fit: ContextFit, stage: LoadStage, free: Free) -> None:
        """It is about to load the model in this layout, and makes *stage* first. *free*: what is
        free for it."""
        self._planned = fit, stage
        self._free = least(self._free, free)
        self.has_smaller = self.failed is None or fit != self.failed.fit

    def has_weights(self) -> None:
        """It has read them."""
        if self._planned is not None:
            self._planned = self._planned[0], "context"

    def refuse(self, how: str, message: str) -> None:
        """It says that memory does not hold the layout. *message*: all of what the library says."""
        self._refusal, self._is_on_device = how, _DEVICE.search(message) is not None

    @property
    def is_backing_off(self) -> bool:
        return self._n_failed > 0

    @property
    def is_exhausted(self) -> bool:
        """Whether memory held none of so many layouts."""
        return self._n_failed > MOST_TRIES

    def back_off(
        self, how: str, *, is_shortage: bool, may_be_shortage: bool = False
    ) -> FailedFit | None:
        """What the next worker has to go below, after one that has ended; None: that was not for
        want of memory, or there were too many tries. *how* it ended, and whether a shortage is or
        may be why, count if it has not refused itself."""
        refusal = self._refusal
        if self._planned is None or not (refusal or is_shortage or may_be_shortage):
            return None
        fit, stage = self._planned
        is_guess = not (refusal or is_shortage)
        self.failed = FailedFit(
            fit=fit,
            stage=stage,
            how=refusal or f"the worker {how}",
            is_guess=is_guess,
            is_host=not (is_guess or self._is_on_device),
            has_served=self.served is not None,
            free=self._free,
        )
        self._n_failed += 1
        self._n_guesses = self._n_guesses + 1 if is_guess else 0
        is_vain = self.is_exhausted or self._n_guesses > MOST_GUESSES
        return None if is_vain else self.failed

    def settle(self) -> None:
        """The model is loaded: what failed counts no more."""
        self.failed, self._free, self._n_failed, self._n_guesses = None, None, 0, 0
        if self._planned is not None:
            self.served = self._planned[0]
