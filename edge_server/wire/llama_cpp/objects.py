"""Objects of llama.cpp's server that other dialects and views show, too."""

from __future__ import annotations

import json
from typing import Any

from spillover.edge_server.wire.errors import WireError
from spillover.runtime.events import (
    Finished,
    Loading,
    Measures,
    Prefilling,
    Queued,
    TokenLogprob,
    TokenProb,
)
from spillover.runtime.request import (
    Gbnf,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    ResponseFormat,
)
from spillover.runtime.sampling import Sampling

SAMPLERS = ("penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")


def error_body(error: WireError) -> bytes:
    """{"error": {…}} as llama.cpp's server gives it: the code is the HTTP status."""
    inner = {
        "code": error.status,
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        **error.extra,
    }
    return json.dumps({"error": inner}).encode()


def timings(event: Finished | Measures) -> dict[str, float]:
    """The timings object of one choice; rates are tokens per second. The time of the first token is
    that of the prompt, which it takes no step beyond."""
    usage, times = event.usage, event.timings
    n_read = usage.prompt_tokens - usage.cached_tokens
    n_predicted = usage.completion_tokens
    n_steps = max(n_predicted - 1, 0)
    drafted = {"draft_n": times.n_drafted, "draft_n_accepted": times.n_accepted}
    return {
        "queue_ms": times.queue_ms,
        "cache_n": usage.cached_tokens,
        "prompt_n": n_read,
        "prompt_ms": times.prefill_ms,
        "prompt_per_token_ms": times.prefill_ms / max(n_read, 1),
        "prompt_per_second": _rate(n_read, times.prefill_ms),
        "predicted_n": n_predicted,
        "predicted_ms": times.decode_ms,
        "predicted_per_token_ms": times.decode_ms / n_steps if n_steps else 0.0,
        "predicted_per_second": _rate(n_steps, times.decode_ms),
        **(drafted if times.n_drafted else {}),
    }


def _rate(n: int, ms: float) -> float:
    return 1e3 * n / ms if ms > 0 else 0.0


def progress(event: Prefilling) -> dict[str, int]:
    """The prompt_progress object."""
    return {
        "total": event.n_prompt_tokens,
        "cache": event.n_cached,
        "processed": event.n_read,
    }


def waiting(event: Loading | Prefilling | Queued) -> dict[str, Any]:
    """How far an answer is that has not begun, for clients that asked with return_progress."""
    if isinstance(event, Loading):
        told = {"model": event.model, "n_ahead": event.n_ahead, "progress": event.progress}
        return {"loading": told}
    if isinstance(event, Queued):
        return {"queue_position": event.position}
    return {"prompt_progress": progress(event)}


def generation_settings(request: GenerationRequest, model: str, n_ctx: int, *, stream: bool) -> Any:
    """The generation_settings object: what the answer was really made with."""
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
        "timings_per_token": request.timings_per_token,
        "post_sampling_probs": request.post_sampling_probs,
        **_format_fields(request.response_format),
        "lora": [],
    }


def _format_fields(value: ResponseFormat | None) -> dict[str, Any]:
    """The response format: llama.cpp's two fields, and vLLM's for a regex."""
    match value:
        case Gbnf() | Lark():
            return {"grammar": value.grammar}
        case JsonObject():
            return {"grammar": "", "json_schema": {"type": "object"}}
        case JsonSchema():
            return {"grammar": "", "json_schema": value.schema}
        case Regex():
            return {"grammar": "", "guided_regex": value.pattern}
    return {"grammar": ""}


def probabilities(record: TokenLogprob) -> dict[str, Any]:
    """The object of one token's logprobs, or of what it was drawn from."""
    if record.sampled:
        own, *likeliest = map(_sampled, record.sampled)
        return {**own, "top_probs": likeliest}
    return {
        **_token(record.token_id, record.token, record.logprob),
        "top_logprobs": [_token(top.token_id, top.token, top.logprob) for top in record.top],
    }


def _sampled(prob: TokenProb) -> dict[str, Any]:
    text = prob.token.decode("utf-8", "replace")
    return {"id": prob.token_id, "token": text, "bytes": list(prob.token), "prob": prob.prob}


def _token(token_id: int, token: bytes, logprob: float) -> dict[str, Any]:
    text = token.decode("utf-8", "replace")
    return {"id": token_id, "token": text, "bytes": list(token), "logprob": logprob}
