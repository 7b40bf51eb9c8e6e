"""What a stream of events says in total: usage, timings, the text of each choice."""

from __future__ import annotations

import functools
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.wire.handoff import leg
from spillover.runtime.events import Finished, Prefilling, TokenLogprob


def valid_text(text: str) -> str:
    """*text* as JSON can carry it: half a character pair, as a provider may send one, becomes
    U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class AnswerHead:
    """What is the same in every chunk of an answer."""

    def __init__(self, prefix: str, answer_id: str, model: str) -> None:
        self.id = f"{prefix}-{answer_id}"
        self.created = int(time.time())
        self.model = model

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(),
        }


@functools.cache
def fingerprint() -> str:
    """Names the build, as llama.cpp's server does with its own."""
    try:
        return f"b-spillover-{version('spillover')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "b-spillover"


class Totals:
    """Collects the Finished events of all choices, of which *n_each* share a prompt."""

    def __init__(self, n_each: int) -> None:
        self.finished: dict[int, Finished] = {}
        self._n_each = n_each

    def add(self, event: StreamEvent) -> None:
        if isinstance(event, Finished):
            self.finished[event.choice] = event

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object; a prompt counts once, however many choices share it."""
        usages = [event.usage for event in self.finished.values()]
        # The first choice of a prompt read it; the others found it in the KV cache.
        read = [e.usage for choice, e in self.finished.items() if choice % self._n_each == 0]
        n_prompt = sum(usage.prompt_tokens for usage in read)
        n_completion = sum(usage.completion_tokens for usage in usages)
        legs = [leg(value) for usage in usages for value in usage.legs]
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
            "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in read)},
            "completion_tokens_details": {
                "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)
            },
            **({"by_leg": legs} if legs else {}),
        }


def timings(event: Finished) -> dict[str, float]:
    """llama.cpp's timings object of one choice; rates are tokens per second."""
    usage, times = event.usage, event.timings
    n_read = usage.prompt_tokens - usage.cached_tokens
    n_predicted = usage.completion_tokens
    return {
        "queue_ms": times.queue_ms,
        "cache_n": usage.cached_tokens,
        "prompt_n": n_read,
        "prompt_ms": times.prefill_ms,
        "prompt_per_token_ms": times.prefill_ms / max(n_read, 1),
        "prompt_per_second": _rate(n_read, times.prefill_ms),
        "predicted_n": n_predicted,
        "predicted_ms": times.decode_ms,
        "predicted_per_token_ms": times.decode_ms / max(n_predicted, 1),
        "predicted_per_second": _rate(n_predicted, times.decode_ms),
    }


def _rate(n: int, ms: float) -> float:
    return 1e3 * n / ms if ms > 0 else 0.0


def progress(event: Prefilling) -> dict[str, int]:
    """llama.cpp's prompt_progress object."""
    return {
        "total": event.n_prompt_tokens,
        "cache": event.n_cached,
        "processed": event.n_read,
    }


def chat_logprobs(records: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """The logprobs object of chat completions."""
    return {
        "content": [
            {
                **_token(record.token, record.logprob),
                "top_logprobs": [_token(top.token, top.logprob) for top in record.top],
            }
            for record in records
        ]
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


def completion_logprobs(records: tuple[TokenLogprob, ...], offset: int) -> dict[str, Any]:
    """The logprobs object of text completions; *offset* counts characters of the answer."""
    tokens = [record.token.decode("utf-8", "replace") for record in records]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [record.logprob for record in records],
        "top_logprobs": [
            {top.token.decode("utf-8", "replace"): top.logprob for top in record.top}
            for record in records
        ],
        "text_offset": offsets,
    }
