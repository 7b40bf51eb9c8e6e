"""What a caller requests from an engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from spillover.runtime.checked import checked
from spillover.runtime.decoders import decoder_of
from spillover.runtime.errors import ImagesRefused, InvalidRequest, ResponseFormatRefused
from spillover.runtime.image import MAX_IMAGES, Image
from spillover.runtime.sampling import Sampling
from spillover.runtime.setting_help import Help

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
Priority: TypeAlias = Literal["normal", "background"]
"""background: an answer that nobody watches being written. It waits while there are others."""
KeepAlive = Annotated[float, Meta(ge=0)]
"""Seconds for which a model stays loaded after its last answer, from this request on until it is
unloaded; infinite: until its memory is needed."""
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]

_encode = msgspec.msgpack.Encoder().encode

MAX_STOP_STRINGS = 16
MAX_CHOICES = 16
MAX_TOKENS = 1_048_576
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call that the assistant asked for; *arguments* is the text of a JSON object."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that an assistant's turn made."""
    tool_call_id: str | None = None
    """The call that a tool's turn answers."""
    reasoning: str | None = None
    """The reasoning of an assistant's turn, for templates that show it."""
    images: tuple[Image, ...] = ()
    """Of a user's turn, or a tool's, in order."""


class Tool(Struct, frozen=True, kw_only=True):
    """A function that the model may ask to be called; *parameters* is its JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool = False
    """The arguments must follow the schema exactly."""


class NamedTool(Struct, frozen=True, kw_only=True):
    """A tool choice: this tool must be called."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedTool


class JsonObject(Struct, frozen=True, kw_only=True, tag=True):
    """The answer is one JSON object."""


class JsonSchema(Struct, frozen=True, kw_only=True, tag=True):
    """The answer is one JSON value that follows *schema*."""

    schema: dict[str, Any]
    name: str = "answer"
    strict: bool = True


class Regex(Struct, frozen=True, kw_only=True, tag=True):
    """The whole answer matches *pattern*."""

    pattern: str


class Lark(Struct, frozen=True, kw_only=True, tag=True):
    """The answer follows a grammar in llguidance's dialect of Lark."""

    grammar: str


class Gbnf(Struct, frozen=True, kw_only=True, tag=True):
    """The answer follows a grammar in llama.cpp's notation."""

    grammar: str


ResponseFormat: TypeAlias = JsonObject | JsonSchema | Regex | Lark | Gbnf
"""What an answer must look like."""


class AnswerDefaults(Struct, frozen=True, kw_only=True):
    """Defaults for requests that leave them open."""

    sampling: Sampling = field(default_factory=Sampling)
    n_predict: Annotated[
        int,
        Meta(ge=-1, le=MAX_TOKENS),
        Help(
            "Most tokens of an answer; -1 means until it ends or the context is full.",
            flag="--n-predict",
            other_flag="--max-tokens",
        ),
    ] = -1

    prefill_assistant: Annotated[
        bool,
        Help(
            "Whether an answer continues a last message of the assistant, as llama-server does.",
            flag="--prefill-assistant",
        ),
    ] = False

    @property
    def max_tokens(self) -> int | None:
        return None if self.n_predict < 0 else self.n_predict


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """A conversation (*messages*) or a raw *prompt* (text or token ids), and how to answer it.

    Exactly one of *messages* and *prompt* is given. *messages* go through the model's chat
    template; *prompt* is taken as it is.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[TokenId, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    """None: until the model ends its answer or its context is full. 0: only read the prompt, so
    that the next request finds its prefix in the KV cache."""
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(max_length=MAX_STOP_STRINGS),
    ] = ()
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    """Number of independent answers (choices); choice i samples with seed + i."""
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """None: none. k: logprob and entropy of each chosen token, and the k likeliest tokens."""
    post_sampling_probs: bool = False
    """With *logprobs*: also the probabilities when all samplers were through."""
    timings_per_token: bool = False
    """Each delta says what its choice has taken so far."""
    ignore_eos: bool = False
    reuse_prefix: bool = True
    """Whether to reuse tokens that are already in the KV cache. Reading fewer at a time rounds
    differently, so near-ties may fall the other way."""
    continue_final_message: bool = False
    """Continue the last message (an assistant's) instead of opening a new turn."""
    add_generation_prompt: bool = True
    """Open the assistant's turn behind the messages. False: the prompt ends with the last one."""
    split_reasoning: bool = True
    """Send <think>-style text of a conversation as ReasoningDelta instead of Delta."""
    thinking_budget: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    """Most tokens of reasoning; then its closing tag is forced, and the answer follows."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template, such as enable_thinking."""
    response_format: ResponseFormat | None = None
    """None: the answer is free. With continue_final_message the whole message has this format."""
    begun: str = ""
    """The end of *prompt* that already belongs to the answer; *response_format* begins there."""
    tools: Annotated[tuple[Tool, ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    priority: Priority = "normal"
    keep_alive_s: KeepAlive | None = None
    """None: as long as the model's owner wants."""

    def checked(self) -> GenerationRequest:
        """This request. Raises InvalidRequest, which names the field that is wrong."""
        request = checked(self)
        request._check_values()
        request._check_images()
        if bool(request.messages) == (request.prompt is not None):
            raise InvalidRequest("give either messages or prompt, and not both", "messages")
        if request.prompt is not None and not request.prompt:
            raise InvalidRequest("the prompt is empty: give at least one token", "prompt")
        if request.continue_final_message and (
            not request.messages or request.messages[-1].role != "assistant"
        ):
            raise InvalidRequest(
                "continue_final_message needs a last message with the role assistant",
                "continue_final_message",
            )
        return request

    @property
    def is_background(self) -> bool:
        """Whether it waits behind all others, and takes nobody's place."""
        return self.priority == "background"

    @property
    def n_images(self) -> int:
        return sum(len(message.images) for message in self.messages)

    def without_images(self) -> GenerationRequest:
        """The same conversation as a model that reads only text can be given it."""
        if not self.n_images:
            return self
        return replace(self, messages=tuple(replace(m, images=()) for m in self.messages))

    def refuse_images(self, reader: str) -> None:
        """Raise ImagesRefused if there is an image, because *reader* sees none."""
        for place, message in enumerate(self.messages):
            if message.images:
                raise ImagesRefused(reader, f"messages[{place}]")

    def refuse_background(self, most: int) -> None:
        """Raise InvalidRequest if it is of the background, of which *most* answers are 0."""
        if self.is_background and not most:
            raise InvalidRequest(
                "no answers of background priority are written here (max_background is 0): "
                "leave priority out, or raise max_background",
                "priority",
            )

    def _check_images(self) -> None:
        if self.n_images > MAX_IMAGES:
            many = f"the conversation has {self.n_images} images, more than {MAX_IMAGES}"
            raise InvalidRequest(f"{many}: leave the oldest out", "messages")
        for place, message in enumerate(self.messages):
            if message.images and message.role not in ("user", "tool"):
                name = f"messages[{place}]"
                raise InvalidRequest(
                    f"{name}: only a turn of the user or a tool may hold images", name
                )

    def _check_values(self) -> None:
        """Raise InvalidRequest for what cannot be sent to another process: integers beyond 64 bits,
        half surrogate pairs."""
        try:
            _encode(self)
        except (OverflowError, ValueError) as error:
            param = next(name for name in self.__struct_fields__ if _cannot_be_sent(self, name))
            halved = isinstance(error, ValueError)
            reason = "it contains half a surrogate pair" if halved else str(error)
            if param == "response_format":
                raise ResponseFormatRefused(reason) from error
            raise InvalidRequest(f"{param}: {reason}", param) from error


def _cannot_be_sent(request: GenerationRequest, name: str) -> bool:
    try:
        _encode(getattr(request, name))
    except (OverflowError, ValueError):
        return True
    return False


decoder_of(GenerationRequest)  # convert() also looks up the fields, and in any thread
