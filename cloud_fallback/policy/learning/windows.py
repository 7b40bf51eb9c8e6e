"""A trace as the policies see it: the features of each of its windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.cloud_fallback.policy.doubt import MIN_TOKENS, tokens_to_next_window
from spillover.cloud_fallback.policy.learning.trace import Trace
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals

Floats = npt.NDArray[np.float64]

FITTED = (
    "mean_64",
    "lowest_64",
    "quantile_10",
    "share_below_3",
    "entropy_64",
    "margin_16",
    "lowest_group",
    "log_length",
    "refusal",
    "unsaid",
)
"""The features of a calibration. The others say the same once more, or nothing."""
CONFIDENCE_ONLY = FITTED[:8]
"""Those of them that come from logprobs."""
EARLY_TOKENS = 24
"""What "early" means: so many tokens of an answer have come."""


class Windows(Struct, frozen=True, kw_only=True):
    """One labelled answer."""

    id: str
    group: str
    wrong: bool
    rows: Floats
    """(n_windows, len(FITTED)), the whole answer last."""
    early: int
    """The row of the last window within the first EARLY_TOKENS tokens."""

    def columns(self, names: tuple[str, ...]) -> Floats:
        found: Floats = self.rows[:, [FITTED.index(name) for name in names]]
        return found


def windows_of(trace: Trace, settings: PolicySettings) -> Windows | None:
    """The windows at which a watch would judge, and the end; None without a label or logprobs."""
    if trace.wrong is None:
        return None
    signals = Signals(trace.request, settings, 0.0)
    rows: list[list[float]] = []
    early, next_look = 0, 0
    for elapsed_s, event in trace.events():
        signals.see(event, elapsed_s)
        n = signals.n_tokens
        if n >= next_look and n and signals.track.n >= MIN_TOKENS:
            next_look = n + tokens_to_next_window(n)
            rows.append(_row(signals))
            if n <= EARLY_TOKENS:
                early = len(rows) - 1
    if not signals.track.n:
        return None
    rows.append(_row(signals))
    return Windows(
        id=trace.id, group=trace.group, wrong=trace.wrong, rows=np.array(rows), early=early
    )


def _row(signals: Signals) -> list[float]:
    features = signals.features()
    return [features[name] for name in FITTED]
