"""Google's Gemini: streamGenerateContent of AI Studio and of Vertex AI.

Its stream has no event names and no last event: an answer is complete when a finishReason has come
and the stream ends. Older models put a finishReason on every frame, so it alone is no end. A stream
that fails may end with a bare JSON object instead of an event.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import ContentBlocked
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.classify import ended_too_early, error_of
from spillover.cloud_fallback.providers.dialects.decoding import Count
from spillover.cloud_fallback.providers.dialects.dialect import Decoder, Dialect, End, Part, Reasons
from spillover.cloud_fallback.providers.dialects.encoding import (
    Draft,
    Fields,
    HttpRequest,
    arguments_object,
    without_nones,
)
from spillover.cloud_fallback.providers.dialects.failure import read_tail
from spillover.cloud_fallback.providers.dialects.images import content_of
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.image import Image
from spillover.runtime.request import GenerationRequest, JsonSchema, Message, NamedTool, Tool

MAX_SEED = 2**31 - 1
MAX_SIGNATURES = 1_024
MAX_SIGNATURE_CHARS = 32_768
UNSIGNED_CALL = "skip_thought_signature_validator"
"""Stands in the history for the signature of a call that another model made, as Google says."""

_SAMPLERS = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "seed": "seed"}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_WITH_PREFILL = re.compile(
    r"(?:.*/)?(?:gemini-2\.|gemini-3-|gemini-3\.[01]-|gemini-3\.5-flash(?!-lite)|gemini-pro-latest)"
)
"""Models that continue a trailing model turn; others answer 400."""
_THINKING = re.compile(r"(?:.*/)?gemini-(?:2\.5|[3-9]|\d\d|(?:pro|flash)-latest)")
"""Models that think before they answer. They are not asked for their thoughts."""
_SIGNING = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d)")
"""Models that refuse tool calls in the history without their own signature."""


class Signatures:
    """The signatures of tool calls by the calls' ids. Clients give back the ids alone, so the rest
    is kept here, in memory, as long as there is room. May be used from any thread."""

    def __init__(self, n_max: int = MAX_SIGNATURES) -> None:
        self._n_max = n_max
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, str] = OrderedDict()

    def remember(self, call_id: str, signature: str) -> None:
        if len(signature) > MAX_SIGNATURE_CHARS:
            return
        with self._lock:
            self._by_id[call_id] = signature
            self._by_id.move_to_end(call_id)
            if len(self._by_id) > self._n_max:
                self._by_id.popitem(last=False)

    def of(self, call_id: str) -> str | None:
        with self._lock:
            return self._by_id.get(call_id)


class GeminiDialect(Dialect):
    """See Dialect."""

    max_stops = 5
    takes_image_urls = False
    json_object: ClassVar[Fields | None] = {"responseMimeType": "application/json"}

    def __init__(self, settings: ProviderSettings) -> None:
        super().__init__(settings)
        self.signatures = Signatures()
        """Of the calls that the model has made; without them it does not know its own reasoning."""
        self._models = _models_path(settings)
        self._needs_token = settings.needs_token

    def key_headers(self, key: str) -> dict[str, str]:
        is_api_key = key.startswith(("AIza", "AQ."))
        if key.startswith("ya29.") or (self._needs_token and not is_api_key):
            return super().key_headers(key)
        return {"x-goog-api-key": key}

    def path(self, model: str) -> str:
        name = quote(model.removeprefix("models/"), safe="@")
        return f"{self._models}/{name}:streamGenerateContent?alt=sse"

    def hides_reasoning(self, model: str) -> bool:
        return _THINKING.match(model) is not None

    def may_prefill(self, model: str) -> bool:
        return _WITH_PREFILL.match(model) is not None

    def fields(self, draft: Draft) -> Fields:
        request = draft.request
        config = {
            "maxOutputTokens": request.max_tokens,
            "stopSequences": list(draft.stop) or None,
            **_samplers(draft),
            **self.response_format(draft),
        }
        signatures = self.signatures if _SIGNING.match(draft.model) else None
        writer = _PartWriter(request, signatures)
        return {
            "contents": [
                {"role": "model" if side == "assistant" else "user", "parts": parts}
                for side, parts in draft.turns(writer.parts)
            ],
            "systemInstruction": {"parts": [{"text": draft.system}]} if draft.system else None,
            "generationConfig": without_nones(config),
            **_tools(draft),
        }

    def json_schema(self, json: JsonSchema) -> Fields:
        return {"responseMimeType": "application/json", "responseJsonSchema": json.schema}

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        return GeminiDecoder(self.provider, sent, self.signatures)


def _models_path(settings: ProviderSettings) -> str:
    """The folder of the models after the base address."""
    if settings.company.without_key != "google":
        return f"{settings.root}/models"
    place = ""
    if settings.project is not None:
        place = f"/projects/{quote(settings.project, safe=':')}"
        place += f"/locations/{quote(settings.location, safe='')}"
    return f"{settings.root}{place}/publishers/google/models"


class _PartWriter:
    """Writes messages as parts. Gemini matches a tool's answer to its call by the tool's name."""

    def __init__(self, request: GenerationRequest, signatures: Signatures | None) -> None:
        """*signatures* None: the model signs nothing."""
        self._names = {c.id: c.name for message in request.messages for c in message.tool_calls}
        self._signatures = signatures

    def parts(self, message: Message) -> list[Fields]:
        if message.role == "tool":
            name = self._names.get(message.tool_call_id or "") or message.name or "tool"
            result = {"functionResponse": {"name": name, "response": _response(message.content)}}
            return [result, *map(_image, message.images)]
        return [*content_of(message, lambda text: {"text": text}, _image), *self._calls(message)]

    def _calls(self, message: Message) -> list[Fields]:
        calls: list[Fields] = [
            {"functionCall": {"name": call.name, "args": arguments_object(call)}}
            for call in message.tool_calls
        ]
        if calls and self._signatures is not None:
            # Of calls that are made together only the first one is signed.
            calls[0]["thoughtSignature"] = UNSIGNED_CALL
            for part, call in zip(calls, message.tool_calls, strict=True):
                if signature := self._signatures.of(call.id):
                    part["thoughtSignature"] = signature
        return calls


def _image(image: Image) -> Fields:
    return {"inlineData": {"mimeType": image.media_type, "data": image.data}}


def _response(content: str) -> Any:
    """A tool's answer as the object that Gemini wants."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"result": content}


def _samplers(draft: Draft) -> Fields:
    fields = draft.chosen(*_SAMPLERS)
    if fields.get("seed", 0) > MAX_SEED:
        del fields["seed"]
    if "temperature" in fields:
        fields["temperature"] = min(fields["temperature"], 2.0)
    return {_SAMPLERS[name]: value for name, value in fields.items() if name not in draft.without}


def _tools(draft: Draft) -> Fields:
    request = draft.request
    if not request.tools:
        return {}
    draft.check_parallel()
    fields: Fields = {"tools": [{"functionDeclarations": [_tool(tool) for tool in request.tools]}]}
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        mode: Fields = {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    elif choice == "auto" and any(tool.strict for tool in request.tools):
        mode = {"mode": "VALIDATED"}
    else:
        mode = {"mode": _MODES[choice]}
    if mode != {"mode": "AUTO"}:
        fields["toolConfig"] = {"functionCallingConfig": mode}
    return fields


def _tool(tool: Tool) -> Fields:
    fields: Fields = {"name": tool.name, "description": tool.description}
    if tool.parameters:
        fields["parametersJsonSchema"] = tool.parameters
    return fields


# The answer.

_UNFINISHED_EVENT = re.compile(rb"(?m)^data:")


class _FunctionCall(Struct, rename="camel"):
    name: str = ""
    id: str | None = None
    args: dict[str, Any] | None = None


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None
    thought_signature: str | None = None


class _Content(Struct, rename="camel"):
    parts: tuple[_Part, ...] | None = None


class _Candidate(Struct, rename="camel"):
    index: Count | None = None
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Usage(Struct, rename="camel"):
    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None


class _Chunk(Struct, rename="camel"):
    candidates: tuple[_Candidate, ...] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class GeminiDecoder(Decoder):
    """Reads the first candidate of one streamed answer."""

    reasons: ClassVar[Reasons] = {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "SAFETY": "content_filter",
        "RECITATION": "content_filter",
        "BLOCKLIST": "content_filter",
        "PROHIBITED_CONTENT": "content_filter",
        "SPII": "content_filter",
        "MODEL_ARMOR": "content_filter",
    }
    is_complete = False
    """Only the stream's end tells."""

    def __init__(self, provider: str, sent: HttpRequest | None, signatures: Signatures) -> None:
        super().__init__(provider, sent)
        self._signatures = signatures

    def read(self, frame: Frame) -> list[Part]:
        chunk = self.json(frame, _Chunk)
        if chunk.error is not None:
            raise self.error(chunk.error)
        self._note(chunk)
        parts: list[Part] = []
        for candidate in chunk.candidates or ():
            if not candidate.index:
                parts += self._candidate(candidate)
        return parts

    def _note(self, chunk: _Chunk) -> None:
        self.name_model(chunk.model_version)
        self.calls.name_answer(chunk.response_id)
        usage = chunk.usage_metadata or _Usage()
        reasoning = usage.thoughts_token_count or 0
        completion = (usage.candidates_token_count or 0) + reasoning
        self.count(
            usage.prompt_token_count, completion, usage.cached_content_token_count, reasoning
        )
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason and not chunk.candidates:
            raise ContentBlocked(self.provider, "the content policy blocked the prompt")

    def _candidate(self, candidate: _Candidate) -> list[Part]:
        parts: list[Part] = []
        for part in (candidate.content and candidate.content.parts) or ():
            parts += self._part(part)
        if candidate.finish_reason:
            parts += self.finish(candidate.finish_reason)
        return parts

    def _part(self, part: _Part) -> list[Part]:
        if part.function_call is not None:
            return [self._call(part.function_call, part.thought_signature)]
        if part.thought:
            return self.text("", part.text)
        return self.text(part.text)

    def _call(self, call: _FunctionCall, signature: str | None) -> Part:
        arguments = msgspec.json.encode(call.args or {}).decode()
        opened = self.calls.open(len(self.calls), id=call.id, name=call.name, arguments=arguments)
        if signature and opened.id and (call.id or self.calls.has_answer_id):  # else not unique
            self._signatures.remember(opened.id, signature)
        return opened

    def end(self, tail: bytes = b"") -> End:
        failure = read_tail(tail)
        if failure is not None:
            raise error_of(self.provider, failure)
        if _UNFINISHED_EVENT.search(tail):
            raise ended_too_early(self.provider, tail)
        return super().end(tail)
