"""Reads prompts in a thread of its own, while the thread that decodes goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

from spillover.runtime.backend import N_PART, NO_MEMORY, Rows
from spillover.runtime.llama.context import LlamaContext
from spillover.runtime.llama.prefill.context import NO_ROOM, PrefillContext, Read, Reading
from spillover.runtime.machine.priority import lower_thread_priority

_RETRY_S = 60.0
"""After a read that found no room, prompts are read in slices for so long. After one that other
programs held up, reads no longer give way to them for so long."""

_LEAST_SHARE = 0.25
"""Other programs hold up a read whose thread has less of a core. Beside answers it has half."""

_LEAST_S = 0.5
"""Shorter reads do not tell."""

_log = logging.getLogger(__name__)


class LlamaPromptReader:
    """See PromptReader in runtime/backend.py for the contract.

    Each batch has a thread of its own. OpenMP keeps a team of threads for each thread that
    computes, and while two teams are more than the cores, neither spins when it waits. That is best
    while both compute, and costs decoding a third of its speed afterwards; so the second team must
    end. Its threads let those that decode have the cores first: steps then take equally long, and
    the loop can wait until just before the next token is due. All programs have them first then, so
    where others want them, it competes for its share.
    """

    def __init__(
        self,
        prefill: Callable[[Sequence[Rows]], PrefillContext | None],
        main: LlamaContext,
        answer: Callable[[PrefillContext, list[int]], None],
        is_undisturbed: Callable[[], bool],
    ) -> None:
        """*prefill* gives the context that reads a batch, or None where there is no memory for it;
        *answer* learns where the outputs are; *is_undisturbed*: whether other programs leave the
        cores to this one."""
        self._prefill_for = prefill
        self._main = main
        self._answer = answer
        self._is_undisturbed = is_undisturbed
        self._prefill: PrefillContext | None = None
        self._reading: Reading | None = None
        self._read: Future[Read] = Future()
        self._thread: threading.Thread | None = None
        self._next_try = 0.0
        self._next_yielding = 0.0

    @property
    def is_busy(self) -> bool:
        return self._thread is not None

    def start(self, batch: Sequence[Rows], on_end: Callable[[], None]) -> bool:
        assert self._thread is None, "it reads one batch at a time"
        is_resting = time.monotonic() < self._next_try
        prefill = None if is_resting else self._prefill_for(batch)
        if prefill is None:
            return False
        try:
            reading = prefill.prepare(batch, self._main, N_PART)
        except NO_MEMORY:
            prefill.close()
            return False
        read: Future[Read] = Future()
        thread = threading.Thread(
            target=self._run, args=(prefill, reading, read, on_end), name="prompt reader"
        )
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            prefill.close()
            return False
        self._prefill, self._reading, self._read, self._thread = prefill, reading, read, thread
        return True

    def _run(
        self,
        prefill: PrefillContext,
        reading: Reading,
        read: Future[Read],
        on_end: Callable[[], None],
    ) -> None:
        started = time.monotonic()
        yields = self._is_undisturbed() and started >= self._next_yielding
        if yields:
            lower_thread_priority()  # that of the team as well, which begins after it
        try:
            read.set_result(prefill.run(reading))
        except BaseException as error:
            read.set_exception(error)
        passed_s = time.monotonic() - started
        if yields and passed_s > _LEAST_S and time.thread_time() < _LEAST_SHARE * passed_s:
            self._next_yielding = started + passed_s + _RETRY_S
        on_end()

    def take(self, wanted: Collection[int]) -> bool:
        assert self._thread is not None, "there is a batch to take"
        assert self._prefill is not None
        assert self._reading is not None
        prefill = self._prefill
        self._thread.join()
        self._thread = None
        try:
            read = self._read.result()
        except BaseException as error:
            prefill.close()
            if isinstance(error, NO_ROOM):
                # It should have fitted. Nothing was changed, and decode() can read the prompt.
                self._next_try = time.monotonic() + _RETRY_S
                _log.warning(
                    "a prompt could not be read beside answers (%s): for %d s prompts are read in "
                    "slices between tokens. If it comes again, close other programs or lower n_kv.",
                    str(error) or "its KV cells did not fit",
                    _RETRY_S,
                )
                return False
            raise
        if not self._reading.batch:
            return False
        prefill.hand_over(self._reading, read, self._main, wanted)
        self._answer(prefill, read.outputs)
        return True

    def abort(self) -> None:
        if self._prefill is not None:
            self._prefill.abort()

    def rest(self) -> None:
        if self._prefill is not None and self._thread is None:
            self._prefill.rest()

    def close(self) -> None:
        """End what is being read."""
        if self._thread is not None:
            self.abort()
            self._thread.join()
            self._thread = None
