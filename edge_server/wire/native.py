"""llama.cpp's own completion dialect: body to requests."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from spillover.edge_server.wire.body import CommonBody, request_of, token_id
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.infill import Files, infill_prompt
from spillover.edge_server.wire.prompts import MAX_TOKEN_ID, engine_prompts, prompts_of, text_of
from spillover.runtime.engine import TextEngine
from spillover.runtime.request import (
    MAX_CHOICES,
    Gbnf,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    ResponseFormat,
)
from spillover.runtime.sampling import Sampling

MAX_BIAS_TEXTS = 256

_OFF: dict[str, dict[str, float]] = {
    "dry": {"dry_multiplier": 0.0},
    "top_k": {"top_k": 0},
    "typ_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
    "penalties": {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
}
"""What switches off a sampler that is missing in a request's list of samplers."""

SAMPLERS = ("penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")


class NativeBody(CommonBody, frozen=True, kw_only=True):
    """POST /completion. Unlike OpenAI's dialect, biases may name texts and forbid with false."""

    prompt: Any = None
    n_predict: int | None = None
    n_cmpl: int | None = None
    n_probs: int | None = None
    logit_bias: Any = None
    return_tokens: bool | None = None
    response_fields: tuple[str, ...] | None = None
    samplers: tuple[str, ...] | str | None = None
    # These would change the answer; silence about them would be a wrong answer.
    mirostat: int | None = None
    dynatemp_range: float | None = None
    top_n_sigma: float | None = None
    post_sampling_probs: bool | None = None

    def sent_as(self) -> dict[str, str]:
        length = {} if self.n_predict is None else {"max_tokens": "n_predict"}
        return {**super().sent_as(), "logprobs": "n_probs", **length}


class InfillBody(NativeBody, frozen=True, kw_only=True):
    """POST /infill."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Files = ()
    prompt: Annotated[str, Meta(max_length=1 << 20)] | None = None


class NativeRequests(Struct, frozen=True, kw_only=True):
    """One request for each prompt, and the prompts' texts."""

    requests: tuple[GenerationRequest, ...]
    texts: tuple[str, ...]

    @property
    def n_each(self) -> int:
        return self.requests[0].n

    @property
    def n_choices(self) -> int:
        return len(self.requests) * self.n_each


def native_requests(body: NativeBody, engine: TextEngine) -> NativeRequests:
    """The requests of a completion, or a 400 that names the field."""
    if body.prompt is None:
        raise bad_request("prompt: a text or an array of token ids is needed", "prompt")
    prompts = prompts_of(body.prompt)
    taken = engine_prompts(engine, prompts)
    return NativeRequests(
        requests=tuple(_request(body, engine, prompt) for prompt in taken),
        texts=tuple(text_of(engine, prompt) for prompt in prompts),
    )


def infill_requests(body: InfillBody, engine: TextEngine) -> NativeRequests:
    """The request that fills in between prefix and suffix."""
    tokens = infill_prompt(
        engine,
        body.input_prefix,
        body.input_suffix,
        files=body.input_extra,
        begun=body.prompt or "",
    )
    text = engine.detokenize(tokens).decode("utf-8", "replace")
    return NativeRequests(requests=(_request(body, engine, tokens),), texts=(text,))


def _request(
    body: NativeBody, engine: TextEngine, prompt: str | tuple[int, ...]
) -> GenerationRequest:
    _refuse(body)
    n = body.n_cmpl if body.n_cmpl is not None else body.n
    fields = {
        "prompt": prompt,
        "max_tokens": body.n_predict if body.n_predict is not None else body.max_tokens,
        "logprobs": body.n_probs or None,
        "n": 1 if n is None else n,
    }
    biases = _biases(body.logit_bias, engine)
    request = request_of(structs.replace(body, logit_bias=None), fields)
    changes: dict[str, Any] = {"logit_bias": biases, **_switched_off(body.samplers)}
    sampling = structs.replace(request.sampling, **changes)
    return structs.replace(request, sampling=sampling).checked()


def _refuse(body: NativeBody) -> None:
    for name in ("mirostat", "dynatemp_range", "post_sampling_probs"):
        if getattr(body, name):
            raise bad_request(f"{name} is not supported", name)
    if body.top_n_sigma is not None and body.top_n_sigma > 0:
        raise bad_request("top_n_sigma is not supported", "top_n_sigma")
    if (body.n_probs or 0) < 0:
        raise bad_request("n_probs: must not be negative", "n_probs")
    for name in ("n_cmpl", "n"):
        if not 1 <= (getattr(body, name) or 1) <= MAX_CHOICES:
            raise bad_request(f"{name}: from 1 to {MAX_CHOICES} are possible", name)


def _switched_off(samplers: tuple[str, ...] | str | None) -> dict[str, Any]:
    """Settings that switch off what is not in the list. The order is llama.cpp's usual one. The
    short form, a text with a letter for each sampler, is not read."""
    if samplers is None or isinstance(samplers, str):
        return {}
    off: dict[str, Any] = {}
    for name, settings in _OFF.items():
        # The default list leaves penalties out without switching them off.
        if name not in samplers and name != "penalties":
            off |= settings
    return off


def _biases(value: Any, engine: TextEngine) -> dict[int, float]:
    """{token id: bias} of [[id or text, bias or false], …] or of {"id or text": bias}."""
    if value is None:
        return {}
    if isinstance(value, dict):
        pairs = [[token_id(k) if k.isascii() and k.isdigit() else k, v] for k, v in value.items()]
    else:
        pairs = value
    if not isinstance(pairs, list):
        raise bad_request("logit_bias: pairs of a token and a number are needed", "logit_bias")
    biases: dict[int, float] = {}
    n_texts = 0
    for i, pair in enumerate(pairs):
        match pair:
            case [int() | str() as token, int() | float() as bias] if not (
                isinstance(token, bool) or bias is True
            ):
                n_texts += isinstance(token, str)
                if n_texts > MAX_BIAS_TEXTS:
                    raise bad_request("logit_bias: too many texts", "logit_bias")
                number = -100.0 if bias is False else float(max(-100, min(bias, 100)))
                biases |= dict.fromkeys(_tokens(token, engine), number)
            case _:
                raise bad_request("this is no pair of a token and a number", f"logit_bias[{i}]")
    return biases


def _tokens(token: int | str, engine: TextEngine) -> tuple[int, ...]:
    if isinstance(token, int):
        if not 0 <= token <= MAX_TOKEN_ID:
            raise bad_request(f"logit_bias: {str(token)[:40]} is no token id", "logit_bias")
        return (token,)
    return engine.tokenize(token, add_special=False, parse_special=True)


def settings_of(request: GenerationRequest, model: str, n_ctx: int, *, stream: bool) -> Any:
    """llama.cpp's generation_settings: what the answer was really made with."""
    sampling = request.sampling
    n_predict = -1 if request.max_tokens is None else request.max_tokens
    shown = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    return {
        **shown,
        "seed": -1 if sampling.seed is None else sampling.seed,
        "logit_bias": [{"token": t, "bias": b} for t, b in sampling.logit_bias.items()],
        "n_predict": n_predict,
        "max_tokens": n_predict,
        "n_ctx": n_ctx,
        "model": model,
        "stop": request.stop,
        "stream": stream,
        "ignore_eos": request.ignore_eos,
        "n_probs": request.logprobs or 0,
        "samplers": SAMPLERS,
        "n_keep": 0,
        "n_discard": 0,
        "mirostat": 0,
        "dynatemp_range": 0.0,
        "timings_per_token": False,
        "post_sampling_probs": False,
        **_response_format_shown(request.response_format),
        "lora": [],
    }


def _response_format_shown(response_format: ResponseFormat | None) -> dict[str, Any]:
    """The response format as it was asked for: llama.cpp's two fields, and one for a regex."""
    match response_format:
        case Gbnf() | Lark():
            return {"grammar": response_format.grammar}
        case JsonObject():
            return {"grammar": "", "json_schema": {"type": "object"}}
        case JsonSchema():
            return {"grammar": "", "json_schema": response_format.schema}
        case Regex():
            return {"grammar": "", "guided_regex": response_format.pattern}
    return {"grammar": ""}
