"""Limits the share of answers that are handed over for their quality, to the most doubtful ones."""

from __future__ import annotations

import contextlib
import math
import threading
from pathlib import Path
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from spillover.cloud_fallback.policy.reason import QUALITY
from spillover.runtime.files.json_file import read_own_json, write_json

N_FIRST = 20
"""The threshold is a cautious guess for this many answers, before there is a quantile."""
SPAN = 40
"""The limit holds in any stretch of so many answers, or of one handoff if that is longer."""
_AIM = 1.25
"""The threshold aims higher than the limit by this factor: some of the doubtful answers come when
the limit is reached, and stay local."""
_STEP = 0.3
"""How far one answer can move the threshold, in log-odds."""
_FARTHEST = 8.0
_WRITE_EVERY = 8
_MOST_SPAN = 1_000

_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class _State(Struct, kw_only=True):
    """*scores*: how doubtful the first answers were; *odds*: the threshold in log-odds; *recent*:
    which of the last answers were handed over, the latest last."""

    target: _Share = 0.0
    odds: Annotated[float, Meta(ge=-_FARTHEST, le=_FARTHEST)] | None = None
    scores: Annotated[list[_Share], Meta(max_length=N_FIRST)] = []
    recent: Annotated[list[bool], Meta(max_length=_MOST_SPAN)] = []


class HandoffRate:
    """Keeps the share of answers that are handed over below a target, and near it.

    Two parts. The threshold follows the scores: at first it is cautious, then a quantile of the
    first answers' scores. After that each answer moves it, up if it was doubtful enough and down if
    not, so that about the right share is, whatever the scores are like. And take() counts: in any
    SPAN answers in a row, and since the start, no more are handed over than the target allows.

    *limited*: the reasons that count. *least*: the threshold never falls below this.
    *is_generous*: it begins with the lowest threshold, and as many as the target allows may come at
    the very start. Any thread may use it. A small file keeps it for the next start; an error there
    never costs an answer.
    """

    def __init__(
        self,
        key: str,
        target: float,
        data_dir: Path,
        *,
        limited: frozenset[str] = QUALITY,
        least: float = 0.0,
        is_generous: bool = False,
    ) -> None:
        self.limited = limited
        self._path = data_dir / "handoff-rates" / f"{key}.json"
        self._target = target
        self._least = least
        self._n_span = min(max(SPAN, math.ceil(1.0 / target)), _MOST_SPAN)
        self._start = [False] * (self._n_span - 1) if is_generous else []
        # Cautious: as if P(wrong) were spread evenly above one half.
        self._first = least if is_generous else max(1.0 - target / 2.0, least)
        self._lock = threading.Lock()
        self._n_taken = 0
        self._n_unwritten = 0
        self._state = read_own_json(self._path, _State) or _State()
        if self._state.target != target:
            self._state = _State(target=target, recent=[*self._start])

    def threshold(self) -> float:
        """The P(wrong) from which an answer is doubtful enough."""
        odds = self._state.odds
        return self._first if odds is None else max(1.0 / (1.0 + math.exp(-odds)), self._least)

    def take(self) -> bool:
        """Whether one more answer may be handed over; if so, it counts until its add()."""
        with self._lock:
            recent = self._state.recent[-(self._n_span - 1) :]
            n = sum(recent) + self._n_taken + 1
            # 0.3 * 10 is less than 3 in floating point.
            if n > self._target * (len(recent) + 1) + 1e-9:
                return False
            self._n_taken += 1
            return True

    def add(self, score: float | None, *, is_doubtful: bool, taken: bool) -> None:
        """Learn from an answer that has ended: its highest P(wrong), whether it was doubtful
        enough, and whether it was handed over after take()."""
        with self._lock:
            state = self._state
            state.recent = [*state.recent, taken][-(self._n_span - 1) :]
            self._n_taken -= taken
            if state.odds is None:
                if score is not None and math.isfinite(score):
                    state.scores = [*state.scores, round(score, 4)]
                self._start_if_enough()
            else:
                odds = state.odds + _STEP * (is_doubtful - self._aim)
                state.odds = max(min(odds, _FARTHEST), _odds(self._least))
            self._n_unwritten += 1
            # A crash must not free what has been used.
            if taken or self._n_unwritten >= _WRITE_EVERY:
                self._write()

    @property
    def _aim(self) -> float:
        return min(_AIM * self._target, (1.0 + self._target) / 2.0)

    def flush(self) -> None:
        """Save what is not saved yet."""
        with self._lock:
            if self._n_unwritten:
                self._write()

    def _start_if_enough(self) -> None:
        """Start from the score that the right share of the first answers reached."""
        ordered = sorted(self._state.scores)
        if len(ordered) >= N_FIRST:
            index = round((1.0 - self._aim) * (len(ordered) - 1))
            self._state.odds = _odds(max(ordered[index], self._least))

    def _write(self) -> None:
        self._n_unwritten = 0
        with contextlib.suppress(OSError):
            write_json(self._path, self._state)


def _odds(p: float) -> float:
    """Log-odds of *p*, within ±_FARTHEST."""
    p = min(max(p, 1e-9), 1.0 - 1e-9)
    return max(min(math.log(p / (1.0 - p)), _FARTHEST), -_FARTHEST)
