"""Text Generation Inference's own generate_stream, which takes a text and goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.classes import answer_error
from spillover.cloud_fallback.providers.dialects.dialect import HttpRequest
from spillover.cloud_fallback.providers.dialects.refusals import holds_only
from spillover.cloud_fallback.providers.dialects.shape import (
    JSON_HEADERS,
    body_bytes,
    check,
    chosen,
    with_prefill,
)
from spillover.cloud_fallback.providers.dialects.tgi_stream import TgiDecoder
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import (
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    Regex,
    ResponseFormat,
)

MAX_STOPS = 4
DEFAULT_MAX_TOKENS = 1024
"""Where nobody said how long an answer may be: the server's own default is a few words."""

_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}
TURN_END = "\nUser:"
"""Where a model that was given a plain transcript begins to speak for the user."""


class TgiDialect(Struct, frozen=True, kw_only=True):
    """*chat_template* is the jinja source of the model's own template; without one the
    conversation becomes a plain transcript, which any model can go on with."""

    provider: str
    path: str = "/generate_stream"
    headers: dict[str, str] = {}
    chat_template: str | None = None

    @property
    def framing(self) -> Literal["sse"]:
        return "sse"

    def key_headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        if not isinstance(request.prompt, str):
            check(request, prefill=prefill)
        if request.tools:
            raise InvalidRequest(f"{self.provider} takes plain text and knows no tools", "tools")
        request, unfinished = with_prefill(request, prefill=prefill)
        own = self._own_stops(request)
        stops = request.stop[: MAX_STOPS - len(own)]
        parameters = {
            "max_new_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "stop": [*stops, *own] or None,
            "details": True,
            "return_full_text": False,
            **_samplers(request),
            **_grammar(request.response_format, self.provider),
        }
        kept = {k: v for k, v in parameters.items() if v is not None and k not in without}
        return HttpRequest(
            path=self.path,
            headers=JSON_HEADERS | self.headers,
            body=body_bytes(
                {"inputs": self._text(request, bool(unfinished.text)), "parameters": kept},
                frozenset(),
            ),
            stop=stops,
            own_stops=own,
            prefilled=unfinished.text,
            trimmed=unfinished.trimmed,
        )

    def _own_stops(self, request: GenerationRequest) -> tuple[str, ...]:
        is_transcript = self.chat_template is None and request.prompt is None
        return (TURN_END,) if is_transcript else ()

    def _text(self, request: GenerationRequest, goes_on: bool) -> str:
        if isinstance(request.prompt, str):
            return request.prompt
        if self.chat_template is None:
            return _transcript(request.messages, goes_on=goes_on)
        # jinja2 is slow to import, and only this dialect with this setting needs it.
        from spillover.runtime.text.chat_template import ChatTemplate

        template = ChatTemplate(self.chat_template, bos_text="", eos_text="", name=self.provider)
        return template.render(request.messages, continue_final_message=goes_on)

    def decoder(self, sent: HttpRequest | None = None) -> TgiDecoder:
        return TgiDecoder(self.provider, sent)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return answer_error(self.provider, status, headers, body)

    def may_prefill(self, model: str) -> bool:
        return True


def _transcript(messages: tuple[Message, ...], *, goes_on: bool) -> str:
    lines = [
        f"{_SPEAKERS[message.role]}: {message.content}"
        if message.role in _SPEAKERS
        else message.content
        for message in messages
    ]
    return "\n\n".join(lines if goes_on else [*lines, "Assistant:"])


def _samplers(request: GenerationRequest) -> dict[str, Any]:
    """What is out of the server's bounds (all are open) means that the sampler is off."""
    sampling = request.sampling
    fields = chosen(sampling, "typical_p", "frequency_penalty", "seed")
    if fields.get("typical_p", 0.5) in (0.0, 1.0):
        del fields["typical_p"]
    ours = chosen(sampling, "temperature", "top_p", "top_k", "repeat_penalty")
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


def _grammar(response_format: ResponseFormat | None, provider: str) -> dict[str, Any]:
    match response_format:
        case None:
            return {}
        case JsonObject():
            return {"grammar": {"type": "json", "value": {"type": "object"}}}
        case JsonSchema():
            return {"grammar": {"type": "json", "value": response_format.schema}}
        case Regex():
            return {"grammar": {"type": "regex", "value": response_format.pattern}}
        case _:
            raise holds_only(provider, "a JSON schema or a regular expression")
