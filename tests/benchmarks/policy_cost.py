"""What signals and policies cost for each token of a watched answer."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from itertools import count
from statistics import quantiles

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.watch import Watch
from spillover.edge_server.calibration.fit import FITTED
from spillover.runtime.events import Delta, TokenLogprob, TopLogprob
from spillover.runtime.request import GenerationRequest, JsonSchema, Message, ResponseFormat

N_TOKENS, N_PART = 8_000, 1_000
_N_VOCAB = 32_000
_CALIBRATION = Calibration(
    model="",
    fingerprint="",
    features=FITTED,
    means=(0.0,) * len(FITTED),
    scales=(1.0,) * len(FITTED),
    weights=(0.01,) * len(FITTED),
    bias=-3.0,
)


def _token(number: int, text: str) -> Delta:
    token_id = zlib.crc32(text.encode()) % _N_VOCAB
    logprob = -0.05 - (number * 37 % 100) / 40
    top = tuple(TopLogprob(token_id=i, token=text.encode(), logprob=logprob - i) for i in range(2))
    lp = TokenLogprob(
        token_id=token_id, token=text.encode(), logprob=logprob, entropy=-logprob, top=top
    )
    return Delta(text=text, token_ids=(token_id,), logprobs=(lp,))


def _prose(number: int) -> str:
    return "." if number % 12 == 0 else f" word{number}"


def _code(number: int) -> str:
    if number == 0:
        return "```"
    return "\n" if number % 9 in (1, 8) else f" v{number}"


def _document(number: int) -> str:
    if number == 0:
        return "["
    return f"{number}" if number % 2 else ", "


_KINDS: dict[str, tuple[Callable[[int], str], ResponseFormat | None]] = {
    "prose": (_prose, None),
    "code": (_code, None),
    "JSON": (_document, JsonSchema(schema={"type": "array"})),
}


def microseconds(kind: str) -> dict[str, float]:
    """Per token: mean, 99 % quantile, and the means of the first and the last thousand tokens."""
    text_of, response_format = _KINDS[kind]
    events = [_token(number, text_of(number)) for number in range(N_TOKENS)]
    request = GenerationRequest(
        messages=(Message(role="user", content="Write something long about rivers, please."),),
        response_format=response_format,
    )
    watch = Watch(
        PolicySettings(),
        request,
        # A clock of its own: the answer comes at 100 tokens a second.
        clock=count(0.0, 0.01).__next__,
        on_trigger=lambda reason: None,
        local=LocalModel(calibration=_CALIBRATION),
    )
    times = []
    for event in events:
        began = time.perf_counter()
        verdict = watch.see(event)
        times.append(1e6 * (time.perf_counter() - began))
        assert verdict != "handoff", watch.reason
    return {
        "mean us": sum(times) / len(times),
        "p99 us": quantiles(times, n=100)[-1],
        "first us": sum(times[:N_PART]) / N_PART,
        "last us": sum(times[-N_PART:]) / N_PART,
    }


def kinds() -> tuple[str, ...]:
    return tuple(_KINDS)
