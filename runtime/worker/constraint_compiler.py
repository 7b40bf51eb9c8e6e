"""Compiles the response formats of requests in their own thread: large ones take a second."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct, structs

from spillover.runtime.backend import Backend, Constraint
from spillover.runtime.errors import EngineBusy, InvalidRequest, ResponseFormatRefused, log_defect
from spillover.runtime.request import GenerationRequest
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.structured_output.last_use import LastUse
from spillover.runtime.text.reasoning import starts_inside
from spillover.runtime.text.template_tags import ANSWER_LEADS, REASONING_TAGS, TagPair
from spillover.runtime.tools.plan import ToolPlan

if TYPE_CHECKING:
    from spillover.runtime.structured_output.factory import ConstraintFactory, Make

_LOG = logging.getLogger(__name__)

MAX_WAITING = 64
"""Requests of each priority that may wait for their response format to be compiled."""

MAX_WAIT_S = 20.0
"""A request whose turn comes later is refused: others were too slow."""

Compiled: TypeAlias = Callable[[Job, bool], None]
"""Takes a job that now has its constraints, and whether it was cancelled meanwhile."""

Refused: TypeAlias = Callable[[int, InvalidRequest | EngineBusy], None]


class Begun(Struct, frozen=True):
    """The part of an answer that exists before its first token."""

    answer: str = ""
    thinking: TagPair | None = None
    """The tags of reasoning that is still open."""

    @classmethod
    def of(cls, request: GenerationRequest) -> Begun:
        text = request.begun
        if request.continue_final_message:
            text = request.messages[-1].content
        if not (request.messages and request.split_reasoning):
            return cls(text)
        for pair in REASONING_TAGS:
            if text.lstrip().startswith(pair.open):
                _, is_closed, answer = text.partition(pair.close)
                return cls(answer.lstrip()) if is_closed else cls(thinking=pair)
        return cls(text)


class _Order(Struct, frozen=True):
    """A job, and who wants it when it has its constraints."""

    job: Job
    prompt: str
    plan: ToolPlan | None
    compiled: Compiled
    refused: Refused
    n_bytes: int
    """The size of what has to be compiled. Small formats go first, so that none waits for large
    ones that came before it."""
    latest: float
    """When it is too late to begin, on the monotonic clock."""


_encode = msgspec.msgpack.Encoder().encode

SLOW_VOCABULARY = 32_000
"""Tokens from which on their tables are worth making before they are asked for."""


class ConstraintCompiler:
    """Gives jobs their constraints, one job after the other, those with small formats first, and
    those of the background last."""

    def __init__(
        self, backend: Backend, tag_pairs: tuple[TagPair, ...], last_use: LastUse | None = None
    ) -> None:
        self._backend = backend
        self._tag_pairs = tag_pairs
        self._factory: ConstraintFactory | None = None
        self._last_use = last_use
        self._waiting: queue.PriorityQueue[tuple[bool, int, int, _Order | None]] = (
            queue.PriorityQueue()
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[int, bool] = {}
        """The jobs that wait here, and whether they were cancelled."""
        self._background: set[int] = set()
        """Those of them that are of the background."""
        self._thread: threading.Thread | None = None

    def compile(
        self, job: Job, prompt: str, plan: ToolPlan | None, compiled: Compiled, refused: Refused
    ) -> None:
        """Call *compiled* or *refused*, soon and in another thread. *prompt* is the text that
        the answer follows."""
        with self._lock:
            n_background = len(self._background)
            n = n_background if job.is_background else len(self._open) - n_background
            if n >= MAX_WAITING and not job.resumed:
                raise EngineBusy(
                    f"{MAX_WAITING} response formats are waiting to be compiled: try again later",
                    2.0,
                )
            self._open[job.id] = False
            if job.is_background:
                self._background.add(job.id)
        n_bytes = len(_encode((job.request.response_format, plan.tools if plan else ())))
        latest = time.monotonic() + MAX_WAIT_S
        self._put(_Order(job, prompt, plan, compiled, refused, n_bytes, latest))

    def prepare(self) -> None:
        """Make the vocabulary's tables now where response formats were used before: later they
        would stall running answers for some tenths of a second."""
        is_slow = self._backend.info.n_vocab >= SLOW_VOCABULARY
        if is_slow and self._last_use is not None and self._last_use.is_recent():
            self._put(None)

    def _put(self, order: _Order | None) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="response-formats", daemon=True
                )
                self._thread.start()
        is_background = order is not None and order.job.is_background
        n_bytes = order.n_bytes if order else 0
        self._waiting.put((is_background, n_bytes, next(self._numbers), order))

    def cancel(self, job_id: int) -> None:
        """Remember it for a job that waits here."""
        with self._lock:
            if job_id in self._open:
                self._open[job_id] = True

    def _run(self) -> None:
        is_noted = self._last_use is None
        while True:
            *_, order = self._waiting.get()
            if order is None:
                self._prepare()
                continue
            if self._last_use is not None and not is_noted:
                self._last_use.note()
                is_noted = True
            self._serve(order)

    def _serve(self, order: _Order) -> None:
        job = order.job
        try:
            if time.monotonic() > order.latest and not job.resumed:
                raise EngineBusy("other response formats took too long: try again later", 5.0)
            constraints = self._constraints(job, order.prompt, order.plan)
            with self._lock:  # no cancel() comes between the two
                is_cancelled = self._open.pop(job.id)
                self._background.discard(job.id)
                order.compiled(structs.replace(job, constraints=constraints), is_cancelled)
        except (InvalidRequest, EngineBusy) as error:
            order.refused(job.id, error)
        except BaseException as error:  # also what Rust code panics with
            log_defect(_LOG, "a response format was refused", error)
            order.refused(job.id, ResponseFormatRefused("the response format cannot be compiled"))
        finally:
            with self._lock:
                self._open.pop(job.id, None)
                self._background.discard(job.id)

    def _prepare(self) -> None:
        try:
            self._factory = self._factory or self._new_factory()
            self._factory.prepare()
        except BaseException as error:  # the first request for a constraint reports it
            log_defect(_LOG, "the vocabulary was not made ready", error)

    def _constraints(self, job: Job, prompt: str, plan: ToolPlan | None) -> tuple[Constraint, ...]:
        factory = self._factory = self._factory or self._new_factory()
        request = job.request
        begun = Begun.of(request)
        make: Make | None = None
        if request.response_format is not None and begun.answer and not (plan and plan.must_call):
            make = factory.rest_of(request.response_format, begun.answer)
        elif request.response_format is not None or (plan and plan.is_constrained):
            made = factory.answer(request.response_format, plan)
            make = self._behind_reasoning(job, prompt, factory, made, begun)
        if request.thinking_budget is not None:
            make = self._within_budget(request.thinking_budget, prompt, factory, make, begun)
        if make is None:
            return ()
        constraints = tuple(make() for _ in range(job.request.n))
        for constraint, tokens in zip(constraints, job.resumed, strict=False):
            for token in tokens or ():
                constraint.accept(token)
        return constraints

    def _new_factory(self) -> ConstraintFactory:
        # The library takes long to import, and most workers never need it.
        from spillover.runtime.structured_output.factory import ConstraintFactory

        return ConstraintFactory(self._backend)

    def _behind_reasoning(
        self, job: Job, prompt: str, factory: ConstraintFactory, make: Make, begun: Begun
    ) -> Make:
        """Reasoning is free. Where it is not split from the answer, the response format holds from
        the first token on."""
        request = job.request
        if not (request.messages and request.split_reasoning):
            return make
        pair, is_inside = self._thinks_in(prompt, begun)
        if pair is None:
            return make
        if pair in ANSWER_LEADS and not request.tools:
            make = factory.after_lead(make, ANSWER_LEADS[pair])
        return factory.after_reasoning(make, pair, is_inside=is_inside)

    def _within_budget(
        self, n_most: int, prompt: str, factory: ConstraintFactory, make: Make | None, begun: Begun
    ) -> Make | None:
        pair, is_inside = self._thinks_in(prompt, begun)
        if pair is None:
            return make
        return factory.within_budget(make, pair, n_most, is_inside=is_inside)

    def _thinks_in(self, prompt: str, begun: Begun) -> tuple[TagPair | None, bool]:
        """The tags of the reasoning that the answer may begin with, and whether they are open."""
        opened = begun.thinking or starts_inside(prompt)
        if opened is not None:
            return opened, True
        # A template that closes the tags at once was asked for an answer without reasoning.
        end = prompt.rstrip()
        return next((p for p in self._tag_pairs if not end.endswith(p.close)), None), False
