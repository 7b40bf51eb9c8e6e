"""Holds the thread that reads prompts until a test lets it go on."""

from __future__ import annotations

import threading

import pytest

from spillover.runtime.llama.prefill.context import PrefillContext, Read, Reading


class Gate:
    """Each batch waits before it is read, while the gate is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.batches: list[list[int]] = []
        """The tokens per sequence of each batch that came to the gate."""
        run = PrefillContext.run

        def wait(prefill: PrefillContext, reading: Reading) -> Read:
            self.batches.append([len(rows.tokens) for rows in reading.batch])
            self.entered.set()
            assert self.opened.wait(60)
            return run(prefill, reading)

        monkeypatch.setattr(PrefillContext, "run", wait)
