"""Statistics over the last values of a stream, at a cost that does not grow with it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class MeanWindow:
    """The mean of the last *size* values."""

    __slots__ = ("_size", "_sum", "_values")

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[float] = deque()
        self._sum = 0.0

    def push(self, value: float) -> None:
        values = self._values
        values.append(value)
        self._sum += value
        if len(values) > self._size:
            self._sum -= values.popleft()

    @property
    def mean(self) -> float:
        """0 while empty."""
        return self._sum / len(self._values) if self._values else 0.0


class SortedWindow:
    """Mean, minimum, quantiles and shares of the last *size* values."""

    __slots__ = ("_size", "_sorted", "_sum", "_values")

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[float] = deque()
        self._sorted: list[float] = []
        self._sum = 0.0

    def __len__(self) -> int:
        return len(self._values)

    def push(self, value: float) -> None:
        values, ordered = self._values, self._sorted
        values.append(value)
        insort(ordered, value)
        self._sum += value
        if len(values) > self._size:
            oldest = values.popleft()
            del ordered[bisect_left(ordered, oldest)]
            self._sum -= oldest

    @property
    def mean(self) -> float:
        """0 while empty."""
        return self._sum / len(self._values) if self._values else 0.0

    @property
    def lowest(self) -> float:
        """0 while empty."""
        return self._sorted[0] if self._sorted else 0.0

    def quantile(self, share: float) -> float:
        """The value that *share* of the values do not exceed; 0 while empty."""
        ordered = self._sorted
        return ordered[int(share * (len(ordered) - 1) + 0.5)] if ordered else 0.0

    def share_below(self, limit: float) -> float:
        """0 while empty."""
        ordered = self._sorted
        return bisect_left(ordered, limit) / len(ordered) if ordered else 0.0
