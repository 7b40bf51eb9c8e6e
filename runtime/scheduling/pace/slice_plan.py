"""Which slice of a prompt to read next: pure functions of the cost tables."""

from __future__ import annotations

from msgspec import Struct

from spillover.runtime.scheduling.pace.slice_costs import SliceCosts

MIXED_WORTH = 1.1
"""A shared call must read this much faster, because it delays the running sequences' tokens."""

FIRST_GUESS = 16
"""The slice while nothing is known about the device."""


class SlicePlan(Struct, frozen=True):
    """The next slice: its size, and whether it shares the call with the decode rows."""

    n_tokens: int
    mixed: bool
    rate: float = 0.0
    """Prompt tokens per second that it is expected to read; 0 when it does not fit."""


def best_alone(costs: SliceCosts, n_left: int, depth: int, n_most: int) -> int:
    """The slice size that reads the whole rest soonest, when no sequence waits for a token."""
    best, best_s = min(n_left, n_most), float("inf")
    for n in costs.candidates(n_left, n_most):
        n_calls, rest = divmod(n_left, n)
        middle = depth + (n_left - n) // 2
        seconds = costs.predict(n, middle)
        rest_s = costs.predict(rest, depth + n_left - rest) if rest else 0.0
        if seconds is None or rest_s is None:
            return min(n_left, n_most)
        if n_calls * seconds + rest_s < best_s * 0.98:
            best, best_s = n, n_calls * seconds + rest_s
    return best


def best_within(
    costs: SliceCosts, n_left: int, depth: int, n_most: int, room_s: float, decode_s: float
) -> tuple[int, float] | None:
    """The slice size that reads all *n_left* tokens soonest when only as many calls are made
    between two decode steps of *decode_s* as fit into *room_s*, and its tokens per second."""
    best: tuple[int, float] | None = None
    for n in costs.candidates(n_left, n_most):
        seconds = costs.predict(n, depth)
        if seconds is None or seconds > room_s:
            continue
        n_calls, rest = divmod(n_left, n)
        rest_s = (costs.predict(rest, depth) or 0.0) if rest else 0.0
        n_gaps = -(-(n_calls + (rest > 0)) // int(room_s / seconds))
        rate = n_left / (n_calls * seconds + rest_s + n_gaps * decode_s)
        if best is None or rate > best[1]:
            best = (n, rate)
    return best


def plan_slice(
    pure: SliceCosts,
    mixed: SliceCosts | None,
    *,
    n_left: int,
    depth: int,
    n_most: int,
    room_s: float,
    decode_s: float,
) -> SlicePlan:
    """The next slice while others generate; *room_s* is the allowed gap without the decode step.
    Without *mixed* it has a call of its own.

    When even the cheapest slice does not fit, it is used anyway: the prompt must make progress.
    """
    alone = best_within(pure, n_left, depth, n_most, room_s, decode_s)
    together = mixed and _best_mixed(mixed, n_left, depth, n_most, room_s + decode_s)
    if together and (alone is None or together[1] > MIXED_WORTH * alone[1]):
        return SlicePlan(together[0], True, together[1])
    if alone:
        return SlicePlan(alone[0], False, alone[1])
    return SlicePlan(_cheapest(pure, n_left, depth, n_most), False)


def _best_mixed(
    costs: SliceCosts, n_left: int, depth: int, n_most: int, gap_s: float
) -> tuple[int, float] | None:
    best: tuple[int, float] | None = None
    for n in costs.candidates(n_left, n_most):
        seconds = costs.predict(n, depth)
        if seconds is not None and seconds <= gap_s and (best is None or n / seconds > best[1]):
            best = (n, n / seconds)
    return best


def _cheapest(costs: SliceCosts, n_left: int, depth: int, n_most: int) -> int:
    """The slice that takes the least time; ties go to the larger one."""
    known = [
        (seconds, -n)
        for n in costs.candidates(n_left, n_most)
        if (seconds := costs.predict(n, depth)) is not None
    ]
    return -min(known)[1] if known else min(n_left, n_most, FIRST_GUESS)
