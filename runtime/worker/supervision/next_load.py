"""What the next worker is to load: how the last one ended may change it."""

from __future__ import annotations

import logging
from pathlib import Path

from msgspec import structs

from spillover.runtime.conversions.choice import EngineChoice
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.back_off import CRASH_ADVICE
from spillover.runtime.fit.tries import Tries
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker import protocol
from spillover.runtime.worker.exits import EXIT_SHORTAGE, MAYBE_SHORTAGE

_log = logging.getLogger(__name__)


class NextLoad:
    """Of one model, through all of its workers: in a smaller layout after one that did not fit,
    without weight repacking, or from the file itself in place of its conversion."""

    def __init__(
        self,
        path: Path,
        name: str,
        options: EngineOptions,
        choice: EngineChoice,
        most_bytes: int | None,
    ) -> None:
        self._path = path
        self._name = name
        self._options = options
        self._choice = choice
        self._most_bytes = most_bytes
        self._tries = Tries()

    def begin(self) -> protocol.Load:
        """The order to a worker that starts."""
        self._tries.begin()
        return protocol.Load(
            path=str(self._path),
            name=self._name,
            options=self._options,
            choice=self._choice,
            failed=self._tries.failed,
            served=self._tries.served,
            most_bytes=self._most_bytes,
        )

    def note(self, report: protocol.Planned | protocol.LoadProgress) -> None:
        """How far the worker is."""
        if isinstance(report, protocol.Planned):
            self._tries.plan(report.fit, report.stage, report.free)
        elif report.share == 1.0:
            self._tries.has_weights()

    def refuse(self, report: protocol.LoadFailed) -> None:
        """The worker says that memory does not hold the layout; another one tries again."""
        message = report.message.replace(str(self._path), "")
        self._tries.refuse(report.shortage, message)

    def settle(self, card: ModelCard, choice: EngineChoice) -> None:
        """The model is loaded."""
        self._choice = choice
        if self._tries.is_backing_off:
            line = "%s is loaded with %s; %s"
            _log.warning(line, self._name, card.layout, card.layout_reason)
        self._tries.settle()

    def has_run_short(self, status: int, how: str, *, was_loading: bool) -> bool:
        """Whether the worker has ended for want of memory, so that the next one tries a smaller
        layout."""
        if was_loading and self.leaves_conversion(status):
            return False
        may_be_crash = status < 0 and self._options.use_extra_bufts
        is_told = self._tries.is_backing_off or not may_be_crash
        failed = self._tries.back_off(
            how,
            is_shortage=status == EXIT_SHORTAGE,
            may_be_shortage=was_loading and is_told and status in MAYBE_SHORTAGE,
        )
        if failed is not None:
            _log.info("%s: %s did not fit (%s)", self._name, failed.fit.in_words(), failed.how)
        return failed is not None

    @property
    def has_smaller(self) -> bool:
        """Whether a layout below the last one may be left."""
        return self._tries.has_smaller

    @property
    def may_leave_conversion(self) -> bool:
        """Whether the file itself can be served in place of its conversion."""
        return self._choice.conversion is not None and not self._choice.llama_problem

    def leaves_conversion(self, status: int) -> bool:
        """Whether it is, as it takes less memory, after such an end of a load."""
        return (status < 0 or status == EXIT_SHORTAGE) and self.may_leave_conversion

    def leave_conversion(self, reason: str, *, is_final: bool) -> None:
        """Serve the file itself from now on, and remember why."""
        _log.warning("%s: %s; llama.cpp loads the file itself now", self._name, reason)
        assert self._choice.conversion is not None
        store = ConversionStore(self._options.cache_dir)
        store.note_failure(self._choice.conversion, reason, is_final=is_final)
        self._choice = EngineChoice(engine="llama", reason=reason)

    def leave_repacking(self, status: int) -> bool:
        """Whether a crash may come from weight repacking, which is off then: it uses instructions
        that a miscompiled library crashes on."""
        may_help = status < 0 and self._options.use_extra_bufts
        if may_help:
            self._options = structs.replace(self._options, use_extra_bufts=False)
        return may_help

    def failure(self, how: str) -> ModelError:
        """Why nothing more is tried after a worker that has ended while it loaded."""
        failed = self._tries.failed
        if failed is not None and self._tries.is_exhausted:
            return ModelError(
                f"memory does not even hold {self._path} with {failed.fit.in_words()} "
                f"({failed.how}): close other programs, or choose a smaller model or quantization"
            )
        return ModelError(f"the worker {how} while loading {self._path}: {CRASH_ADVICE}")
