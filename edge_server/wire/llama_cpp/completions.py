"""llama.cpp's own completions, and its filling in the middle."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.cloud_fallback.route.allowed import Routing
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.dialect import (
    AnswerPlan,
    AnswerRequest,
    Choice,
    Encoder,
    StreamEncoder,
    WholeEncoder,
    cancelled,
    failure,
)
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.llama_cpp.objects import (
    error_body,
    generation_settings,
    probabilities,
    timings,
    waiting,
)
from spillover.edge_server.wire.prompts import (
    MAX_TOKEN_ID,
    Files,
    engine_prompts,
    infill_prompt,
    prompts_of,
    text_of,
)
from spillover.edge_server.wire.request_body import (
    CommonBody,
    answer_plan,
    decode,
    request_of,
    token_id,
)
from spillover.runtime.engine import TextEngine
from spillover.runtime.events import Delta, Finished, Loading, Prefilling, Queued, ReasoningDelta
from spillover.runtime.request import MAX_CHOICES, GenerationRequest
from spillover.runtime.text.surrogates import valid_text

MAX_BIAS_TEXTS = 256

_json = msgspec.json.Encoder().encode

_OFF = {
    "dry": ("dry_multiplier", 0.0),
    "top_k": ("top_k", 0),
    "typ_p": ("typical_p", 1.0),
    "top_p": ("top_p", 1.0),
    "min_p": ("min_p", 0.0),
    "xtc": ("xtc_probability", 0.0),
}
"""What switches off a sampler that is missing in a request's list of samplers. Not the penalties:
the default list leaves them out without switching them off."""


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /completion."""
    body = decode(asked.content, LlamaCppBody)
    if body.prompt is None:
        raise bad_request("prompt is missing: give a text or an array of token ids", "prompt")
    prompts = prompts_of(body.prompt)
    taken = engine_prompts(asked.engine, prompts)
    return _plan(asked, body, taken, tuple(text_of(asked.engine, prompt) for prompt in prompts))


def plan_infill(asked: AnswerRequest) -> AnswerPlan:
    """POST /infill."""
    body = decode(asked.content, InfillBody)
    if asked.engine.card.fim is None:
        message = f"{asked.engine.name} has no tokens for filling in the middle"
        raise WireError(501, message)
    prefix, suffix, begun = body.input_prefix, body.input_suffix, body.prompt or ""
    tokens = infill_prompt(asked.engine, prefix, suffix, files=body.input_extra, begun=begun)
    text = asked.engine.detokenize(tokens).decode("utf-8", "replace")
    return _plan(asked, body, (tokens,), (text,))


def _plan(
    asked: AnswerRequest,
    body: LlamaCppBody,
    prompts: tuple[str | tuple[int, ...], ...],
    texts: tuple[str, ...],
) -> AnswerPlan:
    engine = asked.engine
    wanted = Wanted(
        requests=tuple(_request(body, asked, prompt) for prompt in prompts),
        texts=texts,
        model=engine.name,
        n_ctx=engine.card.n_ctx,
        stream=bool(body.stream),
    )
    encoder: Encoder
    if body.stream:
        encoder = LlamaCppStream(wanted, progress=bool(body.return_progress))
    else:
        encoder = LlamaCppWhole(wanted, body.response_fields, tokens=bool(body.return_tokens))
    # The dialect has no way to show a handoff.
    options = replace(asked.options, routing=Routing(only="local_only"))
    return answer_plan(asked, body, wanted.requests, encoder, options)


class LlamaCppBody(CommonBody, frozen=True, kw_only=True):
    """POST /completion. Unlike OpenAI's dialect, biases may name texts and forbid with false."""

    prompt: Any = None
    n_predict: int | None = None
    n_cmpl: int | None = None
    n_probs: int | None = None
    logit_bias: Any = None
    return_tokens: bool | None = None
    response_fields: tuple[str, ...] | None = None
    samplers: tuple[str, ...] | str | None = None
    # Unsupported: an error, since to ignore them would change the answer in silence.
    mirostat: int | None = None
    dynatemp_range: float | None = None
    top_n_sigma: float | None = None

    def sent_as(self) -> dict[str, str]:
        length = {} if self.n_predict is None else {"max_tokens": "n_predict"}
        return {**super().sent_as(), "logprobs": "n_probs", **length}


class InfillBody(LlamaCppBody, frozen=True, kw_only=True):
    """POST /infill."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Files = ()
    prompt: Annotated[str, Meta(max_length=1 << 20)] | None = None


class Wanted(Struct, frozen=True, kw_only=True):
    """One request for each prompt, the prompts' texts, and what the answer shows of both."""

    requests: tuple[GenerationRequest, ...]
    texts: tuple[str, ...]
    model: str
    n_ctx: int
    stream: bool

    @property
    def n_choices(self) -> int:
        return len(self.requests) * self.requests[0].n

    def last_object(
        self, event: Finished, content: str, tokens: list[int], *, has_new_line: bool
    ) -> dict[str, Any]:
        """What ends the choice that *event* finished."""
        usage = event.usage
        prompt = event.choice // self.requests[0].n
        fills = usage.prompt_tokens + usage.completion_tokens >= self.n_ctx
        return {
            "index": event.choice,
            "content": content,
            "tokens": tokens,
            "id_slot": -1,
            "stop": True,
            "model": self.model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": generation_settings(
                self.requests[prompt], self.model, self.n_ctx, stream=self.stream
            ),
            "prompt": self.texts[prompt],
            "has_new_line": has_new_line,
            "truncated": event.reason == "length" and fills,
            "stop_type": _stop_type(event),
            "stopping_word": event.stop or "",
            "tokens_cached": usage.cached_tokens,
            "timings": timings(event),
        }


def _request(
    body: LlamaCppBody, asked: AnswerRequest, prompt: str | tuple[int, ...]
) -> GenerationRequest:
    _refuse(body)
    n = body.n_cmpl if body.n_cmpl is not None else body.n
    fields = {
        "prompt": prompt,
        "max_tokens": body.n_predict if body.n_predict is not None else body.max_tokens,
        "logprobs": body.n_probs or None,
        "n": 1 if n is None else n,
    }
    biases = _biases(body.logit_bias, asked.engine)
    request = request_of(replace(body, logit_bias=None), fields, asked.defaults)
    changes: dict[str, Any] = {"logit_bias": biases, **_switched_off(body.samplers)}
    sampling = replace(request.sampling, **changes)
    return replace(request, sampling=sampling).checked()


def _refuse(body: LlamaCppBody) -> None:
    for name in ("mirostat", "dynatemp_range"):
        if getattr(body, name):
            raise bad_request(f"{name} is not supported", name)
    if body.top_n_sigma is not None and body.top_n_sigma > 0:
        raise bad_request("top_n_sigma is not supported", "top_n_sigma")
    if (body.n_probs or 0) < 0:
        raise bad_request("n_probs must not be negative", "n_probs")
    for name in ("n_cmpl", "n"):
        if not 1 <= (getattr(body, name) or 1) <= MAX_CHOICES:
            raise bad_request(f"{name} must be from 1 to {MAX_CHOICES}", name)


def _switched_off(samplers: tuple[str, ...] | str | None) -> dict[str, Any]:
    """Settings that switch off the samplers that are not in the list. Its order is ignored, and so
    is the short form, a letter for each sampler."""
    if samplers is None or isinstance(samplers, str):
        return {}
    return dict(off for name, off in _OFF.items() if name not in samplers)


def _biases(value: Any, engine: TextEngine) -> dict[int, float]:
    """{token id: bias} of [[id or text, bias or false], …] or of {"id or text": bias}."""
    if value is None:
        return {}
    if isinstance(value, dict):
        pairs = [[token_id(k) if k.isascii() and k.isdigit() else k, v] for k, v in value.items()]
    else:
        pairs = value
    if not isinstance(pairs, list):
        raise bad_request("logit_bias must hold pairs of a token and a number", "logit_bias")
    biases: dict[int, float] = {}
    n_texts = 0
    for i, pair in enumerate(pairs):
        match pair:
            case [int() | str() as token, int() | float() as bias] if not (
                isinstance(token, bool) or bias is True
            ):
                n_texts += isinstance(token, str)
                if n_texts > MAX_BIAS_TEXTS:
                    raise bad_request(f"logit_bias: at most {MAX_BIAS_TEXTS} texts", "logit_bias")
                number = -100.0 if bias is False else float(max(-100, min(bias, 100)))
                biases |= dict.fromkeys(_tokens(token, engine), number)
            case _:
                name = f"logit_bias[{i}]"
                raise bad_request(f"{name} must be a pair of a token and a number", name)
    return biases


def _tokens(token: int | str, engine: TextEngine) -> tuple[int, ...]:
    if isinstance(token, int):
        if not 0 <= token <= MAX_TOKEN_ID:
            raise bad_request(f"logit_bias: {str(token)[:40]} is not a token id", "logit_bias")
        return (token,)
    return engine.tokenize(token, add_special=False, parse_special=True)


def _stop_type(event: Finished) -> str:
    if event.reason == "length":
        return "limit"
    return "word" if event.stop is not None else "eos"


class LlamaCppStream(StreamEncoder):
    """Encodes a stream of objects, without [DONE]."""

    error_body = staticmethod(error_body)

    def __init__(self, wanted: Wanted, *, progress: bool) -> None:
        super().__init__()
        self._wanted = wanted
        self._progress = progress
        self._has_line = [False] * wanted.n_choices
        self._n_tokens = [0] * wanted.n_choices
        self._n_prompt = 0

    def empty_event(self) -> bytes:
        return self._chunk(0, "", ())

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta() | ReasoningDelta():
                return self._delta(event)
            case Loading() if self._progress:
                return self._chunk(0, "", (), **waiting(event))
            case Prefilling() | Queued():
                self._n_prompt = event.n_prompt_tokens
                if self._progress:
                    return self._chunk(0, "", (), **waiting(event))
            case Finished(reason="cancelled"):
                return self.fail(cancelled())
            case Finished():
                has_line = self._has_line[event.choice]
                return sse.encode(
                    _json(self._wanted.last_object(event, "", [], has_new_line=has_line))
                )
            case Failed():
                return self.fail(failure(event))
        return b""

    def _delta(self, event: Delta | ReasoningDelta) -> bytes:
        choice = event.choice
        self._has_line[choice] |= "\n" in event.text
        self._n_tokens[choice] += len(event.token_ids)
        extra: dict[str, Any] = {}
        if event.measures:
            extra["timings"] = timings(event.measures)
        if event.logprobs:
            extra["completion_probabilities"] = list(map(probabilities, event.logprobs))
        return self._chunk(choice, event.text, event.token_ids, **extra)

    def _chunk(self, choice: int, text: str, tokens: tuple[int, ...], **extra: Any) -> bytes:
        chunk = {
            "index": choice,
            "content": valid_text(text),
            "tokens": tokens,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._n_tokens[choice],
            "tokens_evaluated": self._n_prompt,
            **extra,
        }
        return sse.encode(_json(chunk))


class LlamaCppWhole(WholeEncoder):
    """Encodes one object, or an array of them for several choices."""

    error_body = staticmethod(error_body)

    def __init__(
        self, wanted: Wanted, fields: tuple[str, ...] | None, *, tokens: bool = False
    ) -> None:
        n = wanted.n_choices
        super().__init__([Choice() for _ in range(n)])
        self._wanted = wanted
        self._fields = fields
        self._shows_tokens = tokens
        self._tokens: list[list[int]] = [[] for _ in range(n)]

    def feed(self, event: StreamEvent) -> bytes:
        if isinstance(event, Delta | ReasoningDelta):
            self._tokens[event.choice] += event.token_ids
        return super().feed(event)

    def body(self) -> bytes:
        answers = [self._answer(number) for number in range(len(self.choices))]
        return _json(answers[0] if len(answers) == 1 else answers)

    def _answer(self, number: int) -> dict[str, Any]:
        choice = self.choices[number]
        text = valid_text("".join(choice.reasoning + choice.text))
        tokens = self._tokens[number] if self._shows_tokens else []
        has_line = "\n" in text
        finished = self.finished[number]
        answer = self._wanted.last_object(finished, text, tokens, has_new_line=has_line)
        if choice.logprobs:
            answer["completion_probabilities"] = list(map(probabilities, choice.logprobs))
        return _only(answer, self._fields) if self._fields else answer


def _only(answer: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """The named fields; "a/b" is the field b of a. Missing ones are left out."""
    chosen = {}
    for path in fields:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            chosen[path] = value
    return chosen
