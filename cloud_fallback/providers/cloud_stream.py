"""One answer of a cloud provider, from the request to the end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

from spillover.cloud_fallback.errors import (
    AuthFailed,
    NetworkFailed,
    Overloaded,
    ProviderError,
    ProviderRefused,
    Truncated,
)
from spillover.cloud_fallback.http.errors import (
    Cancelled,
    HttpError,
    Malformed,
    NotReached,
    TimedOut,
)
from spillover.cloud_fallback.http.exchange import Clock
from spillover.cloud_fallback.http.frame import Frames
from spillover.cloud_fallback.providers.answer_meter import AnswerMeter
from spillover.cloud_fallback.providers.api_client import ApiClient
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, End, Part
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineClosed
from spillover.runtime.events import Delta, EngineEvent, Finished, FinishReason
from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.stop_matcher import StopMatcher

if TYPE_CHECKING:  # httpcore2 is imported with the first request
    from spillover.cloud_fallback.http.pool import Incoming

MAX_ANSWER_BYTES = 64 * 2**20
"""Of one stream: an answer of 100,000 tokens in frames of 300 bytes has 30 MB."""
_USAGE_S = 2.0
"""How long after the answer its usage may come."""
_DRAIN_S = 0.05
"""How long the end of a complete answer's body may take, so that its connection can be kept."""


class CloudStream:
    """Used once. Everything is done in the thread that iterates events()."""

    def __init__(
        self,
        api: ApiClient,
        request: GenerationRequest,
        cancellation: Cancellation,
        clock: Clock,
    ) -> None:
        self._api = api
        self._settings = api.settings
        self._request = request
        self._cancellation = cancellation
        self._clock = clock
        self._started = self._clock()
        self._last = self._started + self._settings.total_timeout_s
        self._exchange = api.exchange(
            min(self._last, self._started + self._settings.first_text_timeout_s), self._clock
        )
        self._meter = AnswerMeter(request, self._clock)
        self._stops = StopMatcher(())
        self._decoder: Decoder | None = None
        self._n_bytes = 0
        self._was_refused = False

    def events(self) -> Generator[EngineEvent]:
        """The answer, and its end."""
        try:
            yield from self._events()
        except ProviderError as error:
            error.may_bill = self._may_bill
            raise

    @property
    def _may_bill(self) -> bool:
        """Whether the provider has the request, or a part of it, and has not refused it."""
        return self._exchange.n_sent > 0 and not self._was_refused

    def _events(self) -> Generator[EngineEvent]:
        try:
            with self._cancellation.subscribed(self._exchange.cancel):
                sent, incoming = self._open()
                with closing(incoming):
                    yield from self._read(sent, incoming)
        except Cancelled as error:
            if not self._cancellation.cancelled:
                raise EngineClosed(f"{self._settings.name}: closed during its answer") from error
            yield self._finished("cancelled")
        except HttpError as error:
            self._fail(error)

    # The request.

    def _open(self) -> tuple[HttpRequest, Incoming]:
        """The response's head, when it promises an answer."""
        self._exchange.check()
        while True:
            sent = self._api.encode(self._request)
            try:
                return sent, self._send(sent)
            except ProviderRefused as error:
                if not self._api.learn(error):
                    raise
            except AuthFailed:
                if not self._api.credentials.renew():
                    raise

    def _send(self, sent: HttpRequest) -> Incoming:
        self._was_refused = False
        incoming = self._api.send(sent, self._exchange)
        self._meter.answered()
        try:
            self._api.check(incoming, self._exchange)
        except ProviderError:
            self._was_refused = True
            incoming.close()
            raise
        except BaseException:
            incoming.close()
            raise
        return incoming

    # The answer.

    def _read(self, sent: HttpRequest, incoming: Incoming) -> Generator[EngineEvent]:
        decoder = self._decoder = self._api.dialect.decoder(sent)
        frames = self._api.dialect.frames()
        self._stops = StopMatcher(tuple(s for s in self._request.stop if s not in sent.stop))
        try:
            yield from self._parts(incoming, decoder, frames)
        except Cancelled:
            raise
        except (HttpError, ProviderError):
            if not decoder.is_complete:  # else only the usage is lost
                raise
        if self._stops.stopped is not None:
            yield self._finished("stop", stop=self._stops.stopped)
            return
        end = decoder.end(frames.tail)
        if rest := self._stops.flush():
            yield Delta(text=rest)
        if self._stops.stopped is not None:
            yield self._finished("stop", stop=self._stops.stopped)
        else:
            yield self._finished(end.reason, end=end, stop=end.stop)

    def _parts(
        self, incoming: Incoming, decoder: Decoder, frames: Frames
    ) -> Generator[EngineEvent]:
        """The parts of the answer until the stream, the answer or a stop string ends."""
        for data in incoming:
            yield from self._take(decoder, frames, data)
            if self._stops.stopped is not None:
                return
            if decoder.is_done:
                self._drain(incoming)
                return
        for frame in frames.end():
            yield from self._say(decoder.feed(frame))

    def _take(self, decoder: Decoder, frames: Frames, data: bytes) -> Generator[EngineEvent]:
        self._n_bytes += len(data)
        if self._n_bytes > MAX_ANSWER_BYTES:
            raise Malformed(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        new = frames.feed(data)
        for frame in new:
            yield from self._say(decoder.feed(frame))
            if self._stops.stopped is not None or decoder.is_done:
                return
        if decoder.is_complete:
            self._exchange.deadline = min(self._last, self._clock() + _USAGE_S)
        elif new and self._meter.has_text:
            # Only a whole event shows that the provider is alive.
            self._exchange.deadline = min(self._last, self._clock() + self._settings.idle_timeout_s)

    def _say(self, parts: list[Part]) -> Generator[EngineEvent]:
        """*parts*, up to a stop string that the provider did not look for."""
        for part in parts:
            if self._exchange.cancelled:
                raise Cancelled("cancelled")
            self._meter.count(part)
            if not isinstance(part, Delta):
                if rest := self._stops.flush():
                    yield Delta(text=rest)
                yield part
            elif text := self._stops.feed(part.text):
                yield Delta(text=text)
            if self._stops.stopped is not None:
                return

    def _drain(self, incoming: Incoming) -> None:
        """Read the body's end, which is on its way, to keep the connection."""
        try:
            with self._exchange.within(_DRAIN_S, "the end"):
                for _ in incoming:
                    pass
        except HttpError:
            return

    # The end.

    def _finished(
        self, reason: FinishReason, *, end: End | None = None, stop: str | None = None
    ) -> Finished:
        if end is not None and end.usage is not None:
            usage = self._meter.usage(end.usage)
        else:
            counted = None if self._decoder is None else self._decoder.usage
            usage = self._meter.estimate(counted, may_bill=self._may_bill)
        return Finished(reason=reason, usage=usage, timings=self._meter.timings(), stop=stop)

    def _fail(self, error: HttpError) -> NoReturn:
        """Raise *error* as what it means for the answer."""
        name = self._settings.name
        if isinstance(error, Malformed):
            raise ProviderError(name, str(error)) from error
        if isinstance(error, NotReached):
            self._exchange.n_sent = 0  # only a proxy was told something: whom to connect to
        if not isinstance(error, TimedOut):
            raise NetworkFailed(name, str(error)) from error
        limits = self._settings
        if self._clock() >= self._last:
            raise Truncated(name, f"not complete after {limits.total_timeout_s:g} s") from error
        if self._meter.has_text:
            raise NetworkFailed(name, f"silent for {limits.idle_timeout_s:g} s") from error
        raise Overloaded(name, f"no text in {limits.first_text_timeout_s:g} s") from error
