"""Gemini's generateContent: bodies become requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Encoder
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.gemini.answer import (
    GeminiArray,
    GeminiStream,
    GeminiWhole,
    Told,
)
from spillover.edge_server.wire.gemini.contents import Content, messages_of
from spillover.edge_server.wire.gemini.spelling import as_declared
from spillover.edge_server.wire.request_body import (
    MAX_MESSAGES,
    CommonBody,
    SpilloverBody,
    decode,
    request_of,
    route_options_of,
)
from spillover.edge_server.wire.response_format import AskedFormat, choice
from spillover.runtime.request import AnswerDefaults, GenerationRequest, JsonObject, JsonSchema

_MODES = {"AUTO": "auto", "VALIDATED": "auto", "NONE": "none", "ANY": "required"}
_MAX_DEPTH = 32
_MAX_DIGITS = 19
"""Of a 64-bit integer."""
_MANY = ("properties", "$defs", "defs")


class ThinkingConfig(Struct, frozen=True, kw_only=True, rename="camel"):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(CommonBody, frozen=True, kw_only=True):
    """The object "generationConfig". Sampling parameters of other dialects work, too."""

    n: int | None = field(default=None, name="candidateCount")
    max_tokens: int | None = field(default=None, name="maxOutputTokens")
    stop: tuple[str, ...] | None = field(default=None, name="stopSequences")
    top_p: float | None = field(default=None, name="topP")
    top_k: int | None = field(default=None, name="topK")
    presence_penalty: float | None = field(default=None, name="presencePenalty")
    frequency_penalty: float | None = field(default=None, name="frequencyPenalty")
    response_mime_type: str | None = field(default=None, name="responseMimeType")
    response_schema: dict[str, Any] | None = field(default=None, name="responseSchema")
    response_json_schema: dict[str, Any] | None = field(default=None, name="responseJsonSchema")
    response_logprobs: bool | None = field(default=None, name="responseLogprobs")
    logprobs: int | None = None
    thinking_config: ThinkingConfig | None = field(default=None, name="thinkingConfig")
    response_modalities: tuple[str, ...] | None = field(default=None, name="responseModalities")

    def sent_as(self) -> dict[str, str]:
        return {
            "n": "generationConfig.candidateCount",
            "max_tokens": "generationConfig.maxOutputTokens",
            "stop": "generationConfig.stopSequences",
            "temperature": "generationConfig.temperature",
            "top_p": "generationConfig.topP",
            "top_k": "generationConfig.topK",
            "seed": "generationConfig.seed",
            "presence_penalty": "generationConfig.presencePenalty",
            "frequency_penalty": "generationConfig.frequencyPenalty",
            "logprobs": "generationConfig.logprobs",
            "messages": "contents",
            "thinking_budget": "generationConfig.thinkingConfig.thinkingBudget",
        }

    def asked_formats(self) -> Iterator[AskedFormat]:
        name = "generationConfig.response"
        kind, schema = self.response_mime_type, self.response_json_schema
        field = f"{name}Schema" if schema is None else f"{name}JsonSchema"
        if schema is None and self.response_schema is not None:
            schema = json_schema(self.response_schema, field)
        if kind not in (None, "text/plain", "application/json", "text/x.enum"):
            message = f"{name}MimeType must be text/plain, application/json or text/x.enum"
            raise bad_request(message, f"{name}MimeType")
        if kind == "text/x.enum":
            texts = (schema or {}).get("enum")
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise bad_request(
                    f"{field}: text/x.enum needs a schema with an enum of texts", field
                )
            yield AskedFormat(choice(tuple(texts), field), field)
        elif schema is not None:
            yield AskedFormat(JsonSchema(schema=schema), field)
        elif kind == "application/json":
            yield AskedFormat(JsonObject(), f"{name}MimeType")
        yield from super().asked_formats()


class Declaration(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class Tool(Struct, frozen=True, kw_only=True, rename="camel"):
    """Functions, or something that only Google's servers can run."""

    function_declarations: tuple[Declaration, ...] = ()


class CallingConfig(Struct, frozen=True, kw_only=True, rename="camel"):
    mode: str = "AUTO"
    allowed_function_names: tuple[str, ...] | None = None


class ToolConfig(Struct, frozen=True, kw_only=True, rename="camel"):
    function_calling_config: CallingConfig | None = None


class GenerateBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """POST …:generateContent."""

    contents: Annotated[tuple[Content, ...], Meta(max_length=MAX_MESSAGES)] = ()
    system_instruction: Content | None = None
    generation_config: GenerationConfig | None = None
    tools: tuple[Tool, ...] | None = None
    tool_config: ToolConfig | None = None
    cached_content: str | None = None
    spillover: SpilloverBody | None = None

    @property
    def config(self) -> GenerationConfig:
        return replace(self.generation_config or GenerationConfig(), spillover=self.spillover)


class CountBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """POST …:countTokens: contents, or a whole request."""

    contents: tuple[Content, ...] = ()
    generate_content_request: GenerateBody | None = None


def plan_whole(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1beta/models/NAME:generateContent."""
    return _plan(asked, GeminiWhole)


def plan_stream(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1beta/models/NAME:streamGenerateContent, with alt=sse or as a JSON array."""
    return _plan(asked, GeminiStream if asked.query.get("alt") == "sse" else GeminiArray)


def _plan(
    asked: AnswerRequest, kind: type[GeminiWhole] | type[GeminiStream] | type[GeminiArray]
) -> AnswerPlan:
    body = decode(as_declared(asked.content, GenerateBody), GenerateBody)
    request = _request(body, asked.defaults)
    config = replace(body.config, model=asked.path.get("name"), stream=kind is not GeminiWhole)
    options = route_options_of(config, asked)
    thinking = config.thinking_config or ThinkingConfig()
    told = Told(
        id=asked.options.id,
        model=asked.engine.name,
        n=request.n,
        thoughts=bool(thinking.include_thoughts),
        logprobs=request.logprobs is not None,
        events=options.may_replace,
        progress=bool(config.return_progress),
    )
    encoder: Encoder = kind(told)
    wanted = config.asked_format()
    return AnswerPlan(
        requests=(request,),
        encoder=encoder,
        options=options,
        format_field=None if wanted is None else wanted.field,
    )


def count_tokens(asked: AnswerRequest) -> dict[str, int]:
    """POST /v1beta/models/NAME:countTokens: the length of the prompt, which is not answered."""
    body = decode(as_declared(asked.content, CountBody), CountBody)
    whole = body.generate_content_request or GenerateBody(contents=body.contents)
    n_tokens = asked.engine.apply_template(_request(whole, asked.defaults)).n_tokens
    return {"totalTokens": n_tokens}


def _request(body: GenerateBody, defaults: AnswerDefaults) -> GenerationRequest:
    if body.cached_content:
        raise bad_request("cachedContent names something of Google's servers", "cachedContent")
    if not body.contents:
        raise bad_request("contents is empty: give at least one content", "contents")
    config = body.config
    if any(kind.upper() != "TEXT" for kind in config.response_modalities or ()):
        param = "generationConfig.responseModalities"
        raise bad_request("this model answers only with text", param)
    fields = {
        "messages": messages_of(body.system_instruction, body.contents),
        "max_tokens": config.max_tokens,
        "logprobs": (config.logprobs or 0) if config.response_logprobs else None,
        "template_kwargs": _template_kwargs(config.thinking_config),
        "thinking_budget": _thinking_budget(config.thinking_config),
        **_tool_fields(body),
    }
    if config.max_tokens == 0:
        name = config.sent_as()["max_tokens"]
        raise bad_request(f"{name} must be at least 1", name)
    return request_of(config, fields, defaults)


def _thinking_budget(thinking: ThinkingConfig | None) -> int | None:
    """-1 leaves it to the model."""
    budget = thinking.thinking_budget if thinking else None
    return None if budget == -1 else budget


def _template_kwargs(thinking: ThinkingConfig | None) -> dict[str, Any]:
    if thinking is None:
        return {}
    level = thinking.thinking_level
    chosen = {} if level is None else {"reasoning_effort": level.lower()}
    return {"enable_thinking": thinking.thinking_budget != 0, **chosen}


def _tool_fields(body: GenerateBody) -> dict[str, Any]:
    declared = [
        (declaration, f"tools[{i}].functionDeclarations[{j}]")
        for i, tool in enumerate(body.tools or ())
        for j, declaration in enumerate(tool.function_declarations)
    ]
    tools = tuple(
        {
            "name": declaration.name,
            "description": declaration.description or "",
            "parameters": declaration.parameters_json_schema
            or json_schema(declaration.parameters or {}, f"{param}.parameters"),
        }
        for declaration, param in declared
    )
    calling = (body.tool_config or ToolConfig()).function_calling_config
    if calling is None or not tools:
        return {"tools": tools}
    param = "toolConfig.functionCallingConfig"
    if calling.mode not in _MODES:
        raise bad_request(f"{param}.mode must be one of {', '.join(_MODES)}", f"{param}.mode")
    names = calling.allowed_function_names
    if names:
        tools = tuple(tool for tool in tools if tool["name"] in names)
        if not tools:
            param = f"{param}.allowedFunctionNames"
            raise bad_request(f"{param} names none of the tools", param)
    return {"tools": tools, "tool_choice": _MODES[calling.mode]}


def json_schema(schema: Any, param: str, depth: int = 0) -> Any:
    """Google's form of a schema, with "STRING" and "nullable", as JSON schema has it."""
    if depth > _MAX_DEPTH:
        raise bad_request(f"{param} is nested more than {_MAX_DEPTH} levels deep", param)
    if isinstance(schema, list):
        return [json_schema(each, param, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            made[key] = value.lower()
        elif key in _MANY and isinstance(value, dict):
            made[key] = {k: json_schema(v, param, depth + 1) for k, v in value.items()}
        elif key in ("items", "anyOf", "prefixItems", "additionalProperties"):
            made[key] = json_schema(value, param, depth + 1)
        elif key not in ("nullable", "propertyOrdering", "example"):
            made[key] = int(value) if _is_count(key, value) else value
    if schema.get("nullable") is True:
        _allow_null(made)
    return made


def _allow_null(schema: dict[str, Any]) -> None:
    if isinstance(kind := schema.get("type"), str):
        schema["type"] = [kind, "null"]
    if isinstance(values := schema.get("enum"), list):
        schema["enum"] = [*values, None]
    if isinstance(branches := schema.get("anyOf"), list):
        schema["anyOf"] = [*branches, {"type": "null"}]


def _is_count(key: str, value: Any) -> bool:
    """Counts are 64-bit integers, which Google's JSON writes as texts."""
    if not key.startswith(("min", "max")) or not isinstance(value, str):
        return False
    return value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
