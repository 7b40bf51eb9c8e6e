"""Fakes that are started once and used by one test after another."""

from __future__ import annotations

from tests.fakes.fake import Fake


class FakePool:
    """Starts a process when none is free."""

    def __init__(self) -> None:
        self._free: list[Fake] = []
        self._lent: list[Fake] = []

    def lend(self) -> Fake:
        fake = self._free.pop() if self._free else Fake()
        self._lent.append(fake)
        return fake

    def take_back(self) -> None:
        """Take all of them back and reset them."""
        while self._lent:
            fake = self._lent.pop()
            fake.reset()
            self._free.append(fake)

    def stop(self) -> None:
        for fake in (*self._free, *self._lent):
            fake.stop()
