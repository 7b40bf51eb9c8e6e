"""Adapts the threshold to this device's own answers, to meet a handoff-rate target."""

from __future__ import annotations

import contextlib
import math
import threading
from pathlib import Path
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from spillover.runtime.json_file import read_own_json, write_json

N_FIRST = 20
"""This many answers are judged by the threshold in the settings, before there is a quantile."""
_N_KEPT = 64
_STEP = 0.3
"""How far one answer can move the threshold, in log-odds."""
_FARTHEST = 8.0
_WRITE_EVERY = 8


_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class _State(Struct, kw_only=True):
    """*scores*: how doubtful the last answers were; *odds*: the threshold in log-odds."""

    target: _Share = 0.0
    odds: Annotated[float, Meta(ge=-_FARTHEST, le=_FARTHEST)] | None = None
    scores: Annotated[list[_Share], Meta(max_length=_N_KEPT)] = []


class HandoffRate:
    """Keeps the share of answers that are handed over near a target: numbers, no text.

    The first threshold is a quantile of the first answers' scores. Later answers that are handed
    over have no score for their whole text, so their quantile would be too low and the rate too
    high. Instead each answer moves the threshold: up by (1 - target) steps if it was handed over,
    else down by target steps. That holds the rate for any distribution of scores.

    The threshold never falls below *least*. Any thread may use it. A small file keeps it for the
    next start. Without that file it starts over; an error never costs an answer.
    """

    def __init__(self, key: str, target: float, data_dir: Path, *, least: float = 0.0) -> None:
        self._path = data_dir / "handoff-rates" / f"{key}.json"
        self._target = target
        self._least = least
        self._lock = threading.Lock()
        self._n_unwritten = 0
        self._state = read_own_json(self._path, _State) or _State()
        if self._state.target != target:
            self._state = _State(target=target, scores=self._state.scores)
            self._start_if_enough()

    def threshold(self) -> float | None:
        """The P(wrong) from which answers are handed over; None: too few answers so far."""
        odds = self._state.odds
        return None if odds is None else max(1.0 / (1.0 + math.exp(-odds)), self._least)

    def add(self, score: float | None, *, handed_over: bool) -> None:
        """Learn from an answer that has ended: its highest P(wrong), and whether it was handed
        over."""
        with self._lock:
            state = self._state
            if score is not None and math.isfinite(score):
                state.scores = [*state.scores, round(score, 4)][-_N_KEPT:]
            if state.odds is None:
                self._start_if_enough()
            else:
                odds = state.odds + _STEP * (handed_over - self._target)
                state.odds = max(min(odds, _FARTHEST), _odds(self._least))
            self._n_unwritten += 1
            if self._n_unwritten >= _WRITE_EVERY:
                self._write()

    def flush(self) -> None:
        """Save what is not saved yet."""
        with self._lock:
            if self._n_unwritten:
                self._write()

    def _start_if_enough(self) -> None:
        """Start from the score that a share *target* of the last answers reached."""
        ordered = sorted(self._state.scores)
        if len(ordered) >= N_FIRST:
            index = round((1.0 - self._target) * (len(ordered) - 1))
            self._state.odds = _odds(ordered[index])

    def _write(self) -> None:
        self._n_unwritten = 0
        with contextlib.suppress(OSError):
            write_json(self._path, self._state)


def _odds(p: float) -> float:
    """Log-odds of *p*, within ±_FARTHEST."""
    p = min(max(p, 1e-9), 1.0 - 1e-9)
    return max(min(math.log(p / (1.0 - p)), _FARTHEST), -_FARTHEST)
