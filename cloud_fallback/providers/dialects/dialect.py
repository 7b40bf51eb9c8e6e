"""What every dialect is: it writes a request in a provider's wire format, and its decoder reads the
answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.http.server_sent_events import ServerSentEvents
from spillover.cloud_fallback.providers.dialects.classify import (
    ended_too_early,
    error_of,
    unknown_reason,
)
from spillover.cloud_fallback.providers.dialects.decoding import (
    FrameReader,
    PrefilledText,
    ToolCalls,
)
from spillover.cloud_fallback.providers.dialects.encoding import (
    JSON_HEADERS,
    Draft,
    Fields,
    HttpRequest,
    body_bytes,
    check,
    with_prefill,
)
from spillover.cloud_fallback.providers.dialects.failure import read_answer, read_event
from spillover.cloud_fallback.providers.dialects.images import check_images
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.events import Delta, FinishReason, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    ResponseFormat,
)
from spillover.runtime.text.reasoning import ReasoningSplitter

Part: TypeAlias = Delta | ReasoningDelta | ToolCallDelta
Reasons: TypeAlias = Mapping[str, FinishReason]
"""What a provider's finish reasons mean."""
T = TypeVar("T")

_FORMATS: dict[type[ResponseFormat], str] = {
    JsonObject: "a JSON object",
    Regex: "a regular expression",
    Lark: "a Lark grammar",
    Gbnf: "a GBNF grammar",
}
MOST_TOKENS = 100_000_000
"""No model reads or writes as many: a larger count is none."""
_ALWAYS_SENT = frozenset(("max_tokens", "max_completion_tokens"))


class ProviderUsage(Struct, frozen=True, kw_only=True):
    """Tokens as the provider counted them, and will bill them."""

    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class End(Struct, frozen=True, kw_only=True):
    """The provider said that its answer is complete."""

    reason: FinishReason
    stop: str | None = None
    usage: ProviderUsage | None = None
    model: str | None = None
    """The model that answered, where the provider says so."""


class Decoder(ABC):
    """Reads one streamed answer: a state machine over frames.

    A dialect's `read` returns what an event adds, and calls `finish` when the provider says why it
    ends; an answer that ends without that is Truncated.
    """

    reasons: ClassVar[Reasons]
    """Any other finish reason is an error."""

    def __init__(self, provider: str, sent: HttpRequest | None, *, echoes: bool = False) -> None:
        self.provider = provider
        self.is_done = False
        """Nothing more will come: reading may stop, even where the provider keeps the connection
        open. Some formats know no such mark and end with the stream alone."""
        self.calls = ToolCalls(provider)
        self.finish_reason: str | None = None
        """In the provider's word."""
        self.stop: str | None = None
        self.usage: ProviderUsage | None = None
        self.model: str | None = None
        self._json = FrameReader(provider)
        self._prefilled = PrefilledText(sent, echoes=echoes)
        splits = sent is None or sent.splits_reasoning
        self._splitter = ReasoningSplitter() if splits else None

    @property
    def is_complete(self) -> bool:
        """The answer is whole, whatever becomes of the stream: at most its usage is missing.
        Some formats only know it when the stream has ended well."""
        return self.finish_reason in self.reasons

    def feed(self, frame: Frame) -> list[Part]:
        """What *frame* adds to the answer; unknown frames add nothing.

        Raises ProviderError for an error inside the stream, a malformed frame included.
        """
        data = frame.data.strip()
        self.is_done = self.is_done or data == b"[DONE]"
        if self.is_done or not data:
            return []
        self._json.begin()
        return self.read(frame)

    def end(self, tail: bytes = b"") -> End:
        """The stream is over; *tail* is the last of its bytes that belonged to no event.

        Raises Truncated when the terminal event is missing, and the error that *tail* holds
        where a provider writes one there.
        """
        if self.finish_reason is None:
            raise ended_too_early(self.provider, tail)
        if self.finish_reason not in self.reasons:
            raise unknown_reason(self.provider)
        reason = self.reasons[self.finish_reason]
        if reason == "stop" and len(self.calls):  # as some servers say it
            reason = "tool_calls"
        return End(reason=reason, stop=self.stop, usage=self.usage, model=self.model)

    # For the dialects.

    @abstractmethod
    def read(self, frame: Frame) -> list[Part]:
        """What a frame with data adds."""

    def finish(self, reason: str) -> list[Part]:
        """The provider says why it ends: what was held back until then."""
        self.finish_reason = reason
        rest = self._split(self._prefilled.flush())
        if self._splitter is not None:
            rest += _parts(self._splitter.flush())
        return [*rest, *self.calls.close()]

    def text(self, text: str | None, reasoning: str | None = None) -> list[Part]:
        """A delta for each of the two that is not empty, the reasoning first. The text of many
        models begins with reasoning between tags."""
        parts = _parts([(True, reasoning)] if reasoning else [])
        return parts + self._split(self._prefilled.feed(text or ""))

    def _split(self, text: str) -> list[Part]:
        return _parts(self._splitter.feed(text) if self._splitter and text else [(False, text)])

    def json(self, frame: Frame, kind: type[T]) -> T:
        """The data of *frame*; unknown fields are ignored. Raises ProviderError for all else."""
        return self._json.read(frame.data, kind)

    def kind(self, frame: Frame) -> str:
        """The type of *frame*: in its data, else its name. To be asked before the rest is read,
        since an unknown event may have fields of any shape."""
        kind = self.json(frame, _Typed).type
        return kind if isinstance(kind, str) else frame.name

    def error(self, value: object, name: str = "") -> ProviderError:
        """The error in the JSON *value* of an event, which is called *name*."""
        return error_of(self.provider, read_event(value, name))

    def count(
        self,
        prompt: float | None,
        completion: float | None,
        cached: float | None = None,
        reasoning: float | None = None,
    ) -> None:
        """Note the provider's numbers of tokens, unless one of the first two is missing. Some count
        cached tokens apart from the prompt: a part is never more than its whole, or an answer would
        cost less than nothing."""
        if prompt is None or completion is None or max(prompt, completion) > MOST_TOKENS:
            return
        self.usage = ProviderUsage(
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            cached_tokens=int(min(cached or 0, prompt)),
            reasoning_tokens=int(min(reasoning or 0, completion)),
        )

    def name_model(self, model: object) -> None:
        """Note which model answers, if *model* names one."""
        if isinstance(model, str) and model:
            self.model = model[:256]


class _Typed(Struct):
    type: Any = None


def _parts(pieces: list[tuple[bool, str]]) -> list[Part]:
    """A delta for each (is reasoning, text)."""
    return [
        ReasoningDelta(text=text) if is_reasoning else Delta(text=text)
        for is_reasoning, text in pieces
        if text
    ]


class Dialect(ABC):
    """One provider's wire format. Pure: no clock, no socket, no environment."""

    frames: ClassVar[type[ServerSentEvents | EventStream]] = ServerSentEvents
    """Makes what cuts an answer's bytes into frames."""
    takes_raw_prompts: ClassVar[bool] = False
    max_stops: int | None = None
    """How many stop strings the provider looks for itself; None: all."""
    json_object: ClassVar[Fields | None] = None
    """The fields that hold an answer to a JSON object; None: there are none."""
    can_prefill = True
    """Whether some of its models continue an assistant's turn."""
    takes_image_urls: ClassVar[bool] = True
    """Whether an image may be given by where it lies on the web."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.provider = settings.name
        self.sees_images = settings.sees_images
        self.root = settings.root
        self.headers = JSON_HEADERS
        """Sent with every request."""
        if settings.company.scales_to_zero:
            timeout = str(int(settings.first_text_timeout_s))
            self.headers = self.headers | {"x-scale-up-timeout": timeout}

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        """The request as this provider takes it.

        *prefill*: *model* is to continue the last message, an assistant's; otherwise such a
        message is a finished turn. *without*: optional fields that *model* has refused
        (ProviderRefused.unsupported) and that are left out.

        Response formats, tools, stop strings and the number of tokens hold to the letter: what
        cannot be expressed raises InvalidRequest. Sampling is advice: values left at our defaults
        are the provider's to choose, and a provider without such a sampler does without it.
        """
        if not (self.takes_raw_prompts and isinstance(request.prompt, str)):
            check(request, prefill=prefill)
        check_images(request, self.provider, sees=self.sees_images, links=self.takes_image_urls)
        if prefill and not self.can_prefill:
            raise InvalidRequest(
                f"{self.provider} begins a new turn instead of continuing one", "messages"
            )
        stop = () if "stop" in without else self.stops(request, model)
        request, prefilled, trimmed = with_prefill(request) if prefill else (request, "", "")
        draft = Draft(
            request=request,
            provider=self.provider,
            model=model,
            stop=stop,
            without=without,
            prefilled=prefilled,
            trimmed=trimmed,
        )
        return HttpRequest(
            path=self.path(model),
            headers=self.headers,
            body=body_bytes(self.fields(draft), without - _ALWAYS_SENT),
            stop=stop,
            own_stops=self.own_stops(request),
            prefilled=prefilled,
            trimmed=trimmed,
            splits_reasoning=request.split_reasoning,
        )

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What an answer with another status than 200 means; *headers* in lower case.

        The provider's own words stay out of the message, since they may repeat the request.
        """
        return error_of(self.provider, read_answer(status, headers, body))

    def response_format(self, draft: Draft) -> Fields:
        """The fields that hold the answer to the request's format."""
        match draft.request.response_format:
            case None:
                return {}
            case JsonObject() if self.json_object is not None:
                return self.json_object
            case JsonSchema() as schema:
                return self.json_schema(schema)
            case other:
                return self.grammar(other)

    # What a dialect says.

    @abstractmethod
    def path(self, model: str) -> str:
        """Where *model* is asked, after the base address."""

    @abstractmethod
    def fields(self, draft: Draft) -> Fields:
        """The body; fields that are None are left out."""

    @abstractmethod
    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        """For the answer to *sent*; needed where a turn was prefilled or a stop string is ours."""

    @abstractmethod
    def json_schema(self, json: JsonSchema) -> Fields:
        """The fields that hold an answer to a JSON schema."""

    def grammar(self, grammar: ResponseFormat) -> Fields:
        """The fields that hold an answer to any other format."""
        raise ResponseFormatRefused(
            f"{self.provider} cannot hold an answer to {_FORMATS[type(grammar)]}"
        )

    def key_headers(self, key: str) -> dict[str, str]:
        """The headers that carry *key*."""
        return {"authorization": f"Bearer {key}"}

    def hides_reasoning(self, model: str) -> bool:
        """Whether *model* is known to write reasoning that is billed and not sent."""
        return False

    def may_prefill(self, model: str) -> bool:
        """Whether *model* is known to continue a trailing assistant turn."""
        return self.can_prefill

    def stops(self, request: GenerationRequest, model: str) -> tuple[str, ...]:
        """The stop strings that the provider looks for itself."""
        return request.stop[: self.max_stops]

    def own_stops(self, request: GenerationRequest) -> tuple[str, ...]:
        """Stop strings of the dialect's own."""
        return ()
