"""The layouts of one model that were tried: which one failed last, and what may be tried next."""

from __future__ import annotations

from spillover.runtime.fit.back_off import FailedFit, LoadStage
from spillover.runtime.fit.context_fit import ContextFit

MOST_TRIES = 16
"""Layouts that are tried for one load; each is clearly smaller than the one before."""


class Tries:
    """Follows the workers that load one model, one after the other."""

    def __init__(self) -> None:
        self.failed: FailedFit | None = None
        """What the next worker has to go below; None: it begins with its own plan."""
        self.has_smaller = True
        """Whether a layout below the planned one may be left: one that has served and is the
        smallest is planned again."""
        self._n_failed = 0
        self._planned: tuple[ContextFit, LoadStage] | None = None
        self._refusal = ""
        self._has_served = False

    def begin(self) -> None:
        """A worker starts."""
        self._planned, self._refusal = None, ""

    def plan(self, fit: ContextFit, stage: LoadStage) -> None:
        """It is about to load the model in this layout, and makes *stage* first."""
        self._planned = fit, stage
        self.has_smaller = self.failed is None or fit != self.failed.fit

    def has_weights(self) -> None:
        """It has read them."""
        if self._planned is not None:
            self._planned = self._planned[0], "context"

    def refuse(self, how: str) -> None:
        """It says that memory does not hold the layout."""
        self._refusal = how

    @property
    def is_backing_off(self) -> bool:
        return self._n_failed > 0

    def back_off(self, how: str, *, is_shortage: bool) -> FailedFit | None:
        """What the next worker has to go below, after one that has ended; None: that was not for
        want of memory, or there were too many tries. *how* it ended, and whether a shortage may be
        why, count if it has not refused itself."""
        if self._planned is None or not (self._refusal or is_shortage):
            return None
        fit, stage = self._planned
        how = self._refusal or f"the worker {how}"
        self.failed = FailedFit(fit=fit, stage=stage, how=how, has_served=self._has_served)
        self._n_failed += 1
        return self.failed if self._n_failed <= MOST_TRIES else None

    def settle(self) -> None:
        """The model is loaded: what failed counts no more."""
        self.failed, self._n_failed = None, 0
        self._has_served = True
