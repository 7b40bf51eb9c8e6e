"""A model of a host as an engine: it is loaded when somebody needs it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, contextmanager

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.embedding_request import EmbeddingRequest, EngineRequest
from spillover.runtime.engine import ConversationPrompt, EngineStatus, ModelCard
from spillover.runtime.errors import EngineBusy, NotLoaded
from spillover.runtime.events import EngineEvent, Finished, Loading, cancelled
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.preparer import RETRY_AFTER_S
from spillover.runtime.hosting.residence import ModelState, Residence, Use
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest


class HostedModel:
    """Streams answers as a LocalEngine does, preceded by Loading events while it is loaded. Any
    thread may use it; the host owns it."""

    def __init__(self, host: ModelHost, residence: Residence, *, waits: bool = True) -> None:
        """*waits*: questions wait until the model is loaded, as streams always do; else they raise
        NotLoaded."""
        self._host = host
        self._residence = residence
        self._waits = waits

    @property
    def name(self) -> str:
        return self._residence.spec.name

    @property
    def at_once(self) -> HostedModel:
        """The same for those who must not wait."""
        return HostedModel(self._host, self._residence, waits=False)

    @property
    def card(self) -> ModelCard:
        """Facts of the last time it was loaded. Raises NotLoaded if it never was."""
        card = self._residence.card
        if card is None:
            raise NotLoaded(self.name)
        return card

    # --- whether it is loaded ---------------------------------------------------------------

    def state(self) -> ModelState:
        return self._host.state(self._residence)

    @property
    def is_loaded(self) -> bool:
        """Whether who asks now does not have to wait."""
        return self.state().state == "loaded"

    @property
    def holds_memory(self) -> bool:
        """Whether it is loaded, if only until its last answer has ended."""
        return self.state().state in ("loaded", "unloading")

    def wait_ready(self) -> ModelCard:
        """Load it. Raises ModelError, EngineError."""
        with self.loaded():
            return self.card

    def preload(self) -> None:
        """Load it, without waiting for that. Raises EngineBusy, EngineClosed."""
        self._host.preload(self._residence)

    @contextmanager
    def loading(
        self, on_settled: Callable[[], None], *, is_patient: bool = False
    ) -> Generator[Use]:
        """Load it while the block runs, and keep it; *on_settled* is called when it is loaded or
        cannot be, and must be quick. *is_patient*: see ModelHost.use(). Raises EngineBusy,
        EngineClosed."""
        use = self._host.use(self._residence, is_patient=is_patient)
        try:
            self._host.on_settled(use, on_settled)
            yield use
        finally:
            self._host.release(use)

    def unload(self) -> None:
        """Unload it when its running answers have ended."""
        self._host.unload(self._residence)

    def keep_alive(self, seconds: float) -> None:
        """See ModelHost."""
        self._host.keep_alive(self._residence, seconds)

    def watch_deaths(self, callback: Callable[[], None]) -> None:
        """See LocalEngine; it holds for each time it is loaded from now on."""
        self._residence.on_death = callback

    @contextmanager
    def _held(self) -> Generator[LocalEngine]:
        """The loaded engine, for a question. Raises what loading it raises, and NotLoaded."""
        if self._waits:
            with self.loaded() as engine:
                yield engine
            return
        use = self._host.use_if_loaded(self._residence)
        if use is None:
            raise NotLoaded(self.name)
        try:
            yield _engine_of(use)
        finally:
            self._host.release(use)

    @contextmanager
    def loaded(self) -> Generator[LocalEngine]:
        """The engine, which stays loaded while the block runs. Raises what loading it raises."""
        with self.loading(lambda: None) as use:
            yield self.settled(use)

    def settled(self, use: Use) -> LocalEngine:
        """Wait for the engine that *use*, of loading(), is for. Raises what loading it raises."""
        never, seen = Cancellation(), None
        while (seen := self._host.wait(use, seen, never)) is not None:
            pass
        return _engine_of(use)

    # --- as an engine -----------------------------------------------------------------------

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """Yield the events of one answer; see LocalEngine.stream. Raises what loading raises."""
        request.refuse_images(self.name)
        request.refuse_background(self._residence.spec.max_background)
        cancellation = cancellation or Cancellation()
        yield from self._answer(
            request,
            lambda engine, cancellation: engine.stream(request, cancellation),
            cancellation,
        )

    def embed(
        self, request: EmbeddingRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """See LocalEngine.embed."""
        cancellation = cancellation or Cancellation()
        yield from self._answer(
            request,
            lambda engine, cancellation: engine.embed(request, cancellation),
            cancellation,
        )

    def _answer(
        self,
        request: EngineRequest,
        ask: Callable[[LocalEngine, Cancellation], Generator[EngineEvent]],
        cancellation: Cancellation,
    ) -> Generator[EngineEvent]:
        use = self._host.use(
            self._residence,
            is_background=request.is_background,
            keep_alive_s=request.keep_alive_s,
        )
        try:
            seen: Loading | None = None
            while (seen := self._host.wait(use, seen, cancellation)) is not None:
                yield seen
            if use.is_settled:
                yield from self._unless_it_must_yield(use, ask, cancellation)
            else:
                yield from map(cancelled, range(request.n))
        finally:
            self._host.release(use)

    def _unless_it_must_yield(
        self,
        use: Use,
        ask: Callable[[LocalEngine, Cancellation], Generator[EngineEvent]],
        cancellation: Cancellation,
    ) -> Generator[EngineEvent]:
        """What is asked. Raises EngineBusy when the model has to make room meanwhile."""
        either = Cancellation()
        with (
            cancellation.subscribed(either.cancel),
            use.must_yield.subscribed(either.cancel),
            closing(ask(_engine_of(use), either)) as events,
        ):
            for event in events:
                is_cut = isinstance(event, Finished) and event.reason == "cancelled"
                if is_cut and use.must_yield.cancelled and not cancellation.cancelled:
                    message = f"{self.name} makes room for a model that others wait for"
                    raise EngineBusy(f"{message}: try again later", RETRY_AFTER_S)
                yield event

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]:
        """See LocalEngine."""
        with self._held() as engine:
            return engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: tuple[int, ...]) -> bytes:
        """See LocalEngine."""
        with self._held() as engine:
            return engine.detokenize(token_ids)

    def pieces(self, token_ids: tuple[int, ...]) -> tuple[bytes, ...]:
        """See LocalEngine."""
        with self._held() as engine:
            return engine.pieces(token_ids)

    def apply_template(self, request: GenerationRequest) -> ConversationPrompt:
        """See LocalEngine."""
        with self._held() as engine:
            return engine.apply_template(request)

    def health(self) -> EngineStatus:
        """What is known without asking the worker; "unloaded" where there is none, with the reason
        if it could not be loaded."""
        return self._status(LocalEngine.health)

    def status(self) -> EngineStatus:
        """A snapshot; never waits for a decode or for the model to be loaded."""
        return self._status(LocalEngine.status)

    def _status(self, ask: Callable[[LocalEngine], EngineStatus]) -> EngineStatus:
        engine = self._residence.engine
        status = None if engine is None else ask(engine)
        if status is not None and status.state != "closed":
            return status
        state = self.state()
        is_loading = state.state == "loading"
        return EngineStatus(
            state="loading" if is_loading else "unloaded",
            n_queued=state.n_waiting,
            detail=state.error,
        )


def _engine_of(use: Use) -> LocalEngine:
    if use.error is not None:
        raise use.error
    assert use.engine is not None, "it is settled"
    return use.engine
