"""The stream of generate_stream: one event for each token. The answer is complete with the event
that carries the whole text again."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from spillover.cloud_fallback.providers.dialects.classes import ended_without_terminal, unknown_end
from spillover.cloud_fallback.providers.dialects.dialect import (
    End,
    Frame,
    HttpRequest,
    Part,
    ProviderUsage,
)
from spillover.cloud_fallback.providers.dialects.frames import Count, FrameReader
from spillover.cloud_fallback.providers.dialects.prefilled import PrefilledText
from spillover.cloud_fallback.providers.dialects.words import words
from spillover.runtime.events import FinishReason
from spillover.runtime.text.stop_matcher import StopMatcher

_REASONS: dict[str, FinishReason] = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}


class _Token(Struct):
    text: str = ""
    special: bool = False


class _Details(Struct):
    finish_reason: str | None = None
    generated_tokens: Count | None = None
    input_length: Count | None = None


class _Event(Struct):
    token: _Token | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None


class TgiDecoder:
    """Reads one streamed text. The server sends the stop string that ended it too: it is cut off
    here, as is a stop string of the dialect's own, after which the model would speak for the
    user."""

    def __init__(self, provider: str, sent: HttpRequest | None) -> None:
        self._provider = provider
        self._frames = FrameReader(provider)
        self._own_stops = sent.own_stops if sent else ()
        self._stops = StopMatcher((*(sent.stop if sent else ()), *self._own_stops))
        self._text = PrefilledText(sent)
        self._opens_turn = bool(self._own_stops) and not (sent and sent.prefilled)
        self._reason: str | None = None
        self._usage: ProviderUsage | None = None
        self.is_done = False

    @property
    def is_complete(self) -> bool:
        return self._reason in _REASONS

    def feed(self, frame: Frame) -> list[Part]:
        if self.is_done or not frame.data.strip():
            return []
        event = self._frames.read(frame.data, _Event)
        if event.error is not None:
            raise self._frames.error(frame)
        text = event.token.text if event.token and not event.token.special else ""
        text = self._stops.feed(text)
        if event.generated_text is not None:
            text += self._finish(event.details or _Details())
        return words(self._text.feed(self._opened(text)))

    def _opened(self, text: str) -> str:
        """After "Assistant:" the answer begins with a space that belongs to the transcript."""
        if self._opens_turn:
            text = text.lstrip()
            self._opens_turn = not text
        return text

    def _finish(self, details: _Details) -> str:
        self.is_done = True
        self._reason = details.finish_reason or "eos_token"
        if details.input_length is not None and details.generated_tokens is not None:
            self._usage = ProviderUsage(
                prompt_tokens=details.input_length, completion_tokens=details.generated_tokens
            )
        return self._stops.flush()

    def end(self, tail: bytes = b"") -> End:
        if self._reason is None:
            raise ended_without_terminal(self._provider, tail)
        if self._reason not in _REASONS:
            raise unknown_end(self._provider)
        stop = self._stops.stopped
        return End(
            reason="stop" if stop is not None else _REASONS[self._reason],
            stop=None if stop in self._own_stops else stop,
            usage=self._usage,
        )
