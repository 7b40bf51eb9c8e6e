"""Something that waits, in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Waiter:
    """Runs *work* and keeps what it returns or raises."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._found: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:
            self._error = error

    def error(self) -> BaseException | None:
        """What it raised; waits for its end."""
        self._thread.join(20)
        assert not self._thread.is_alive(), "it still waits"
        return self._error

    def result(self) -> Any:
        """What it returned; waits for its end."""
        if error := self.error():
            raise error
        return self._found
