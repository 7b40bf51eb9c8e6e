"""Text Generation Inference's own generate_stream, which takes a text and continues it.

Its stream has one event for each token. An answer is complete with the event that carries the whole
text again.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.decoding import Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import Draft, Fields, HttpRequest
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.request import GenerationRequest, JsonSchema, Message, Regex, ResponseFormat
from spillover.runtime.text.stop_matcher import StopMatcher

if TYPE_CHECKING:
    from spillover.runtime.chat.chat_template import ChatTemplate

MAX_STOPS = 4
DEFAULT_MAX_TOKENS = 1024
"""Where the request sets no limit: the server's own default is a few words."""

_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}
TURN_END = "\nUser:"
"""Where a model that was given a plain transcript begins to speak for the user."""


class TgiDialect(Dialect):
    """Without the model's own chat template the conversation becomes a plain transcript, which any
    model can continue."""

    takes_raw_prompts = True
    json_object: ClassVar[Fields | None] = {
        "grammar": {"type": "json", "value": {"type": "object"}}
    }

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self._chat_template = settings.chat_template

    def path(self, model: str) -> str:
        return f"{self.root}/generate_stream"

    def stops(self, request: GenerationRequest, model: str) -> tuple[str, ...]:
        return request.stop[: MAX_STOPS - len(self.own_stops(request))]

    def own_stops(self, request: GenerationRequest) -> tuple[str, ...]:
        is_transcript = self._chat_template is None and request.prompt is None
        return (TURN_END,) if is_transcript else ()

    def fields(self, draft: Draft) -> Fields:
        request = draft.request
        if request.tools:
            raise InvalidRequest(f"{self.provider} takes plain text, not tools", "tools")
        parameters = {
            "max_new_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "stop": [*draft.stop, *self.own_stops(request)] or None,
            "details": True,
            "return_full_text": False,
            **_samplers(draft),
            **self.response_format(draft),
        }
        return {
            "inputs": self._text(request, is_continued=bool(draft.prefilled)),
            "parameters": {
                name: value
                for name, value in parameters.items()
                if value is not None and name not in draft.without
            },
        }

    def _text(self, request: GenerationRequest, *, is_continued: bool) -> str:
        if isinstance(request.prompt, str):
            return request.prompt
        if self._chat_template is None:
            return _transcript(request.messages, is_continued=is_continued)
        return self._template.render(request.messages, continue_final_message=is_continued)

    @cached_property
    def _template(self) -> ChatTemplate:
        # jinja2 is slow to import, and only this dialect with this setting needs it.
        from spillover.runtime.chat.chat_template import ChatTemplate

        try:
            return ChatTemplate(self._chat_template, bos_text="", eos_text="", name=self.provider)
        except ModelError as error:
            raise InvalidRequest(str(error), "chat_template") from error

    def json_schema(self, json: JsonSchema) -> Fields:
        return {"grammar": {"type": "json", "value": json.schema}}

    def grammar(self, grammar: ResponseFormat) -> Fields:
        if not isinstance(grammar, Regex):
            return super().grammar(grammar)
        return {"grammar": {"type": "regex", "value": grammar.pattern}}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return TgiDecoder(self.provider, sent)


def _transcript(messages: tuple[Message, ...], *, is_continued: bool) -> str:
    lines = [
        f"{_SPEAKERS[message.role]}: {message.content}"
        if message.role in _SPEAKERS
        else message.content
        for message in messages
    ]
    return "\n\n".join(lines if is_continued else [*lines, "Assistant:"])


def _samplers(draft: Draft) -> Fields:
    """A value outside the server's bounds (all are open) means that the sampler is off."""
    fields = draft.chosen("typical_p", "frequency_penalty", "seed")
    if fields.get("typical_p", 0.5) in (0.0, 1.0):
        del fields["typical_p"]
    ours = draft.chosen("temperature", "top_p", "top_k", "repeat_penalty")
    if ours.get("temperature", 1.0) > 0.0:
        fields |= {name: ours[name] for name in ("temperature",) if name in ours}
        fields |= {"top_p": ours["top_p"]} if 0.0 < ours.get("top_p", 0.0) < 1.0 else {}
        fields |= {"top_k": ours["top_k"]} if ours.get("top_k", 0) > 0 else {}
        fields |= {"do_sample": True}
    else:
        fields |= {"do_sample": False}
    if "repeat_penalty" in ours:
        fields["repetition_penalty"] = ours["repeat_penalty"]
    return fields


# The answer.


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


class TgiDecoder(Decoder):
    """Reads one streamed text. The server sends the stop string that ended it too: it is cut off
    here, as is a stop string of the dialect's own, after which the model would speak for the
    user."""

    reasons: ClassVar[Reasons] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}

    def __init__(self, provider: str, sent: HttpRequest | None) -> None:
        super().__init__(provider, sent)
        self._own_stops = sent.own_stops if sent else ()
        self._matcher = StopMatcher((*(sent.stop if sent else ()), *self._own_stops))
        self._opens_turn = bool(self._own_stops) and not (sent and sent.prefilled)

    def read(self, frame: Frame) -> list[Part]:
        event = self.json(frame, _Event)
        if event.error is not None:
            raise self.error(self.json(frame, object))
        token = event.token or _Token()
        text = self._matcher.feed("" if token.special else token.text)
        if event.generated_text is None:
            return self.text(self._opened(text))
        parts = self.text(self._opened(text + self._matcher.flush()))
        return [*parts, *self._finish(event.details or _Details())]

    def _opened(self, text: str) -> str:
        """After "Assistant:" the answer begins with a space that belongs to the transcript."""
        if self._opens_turn:
            text = text.lstrip()
            self._opens_turn = not text
        return text

    def _finish(self, details: _Details) -> list[Part]:
        self.is_done = True
        self.count(details.input_length, details.generated_tokens)
        found = self._matcher.stopped
        if found is not None:
            self.stop = None if found in self._own_stops else found
            return self.finish("stop_sequence")
        return self.finish(details.finish_reason or "eos_token")
