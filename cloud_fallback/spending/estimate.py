"""What a request will cost at most, before it is sent."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.spending.prices import Prices
from spillover.runtime.request import GenerationRequest

BYTES_PER_TOKEN = 3
"""Of UTF-8; English has about 4 with today's tokenizers, so that estimates are rather too high."""
TOKENS_PER_MESSAGE = 8
ASSUMED_COMPLETION_TOKENS = 4096
"""Reserved at first when a request sets no max_tokens; more is reserved while it answers."""


class Estimate(Struct, frozen=True, kw_only=True):
    """Tokens of one request; *prices* None: not known."""

    prompt_tokens: int
    max_completion_tokens: int | None
    """None: the request sets no limit."""
    prices: Prices | None

    def nano_usd(self, completion_tokens: int) -> int:
        """What it costs with so many tokens of answer; 0 where the price is not known."""
        return self.prices.nano_usd(self.prompt_tokens, completion_tokens) if self.prices else 0


def estimate(request: GenerationRequest, prices: Prices | None) -> Estimate:
    """What *request* may cost at a provider with these *prices*, as it would be sent."""
    limit = request.max_tokens and request.max_tokens * request.n
    return Estimate(
        prompt_tokens=estimated_prompt_tokens(request), max_completion_tokens=limit, prices=prices
    )


def estimated_prompt_tokens(request: GenerationRequest) -> int:
    """About how many tokens a provider will count in the prompt; rather too many."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    said = [request.prompt or "", *map(_said, request.messages)]
    if request.tools or request.response_format:
        said.append(msgspec.json.encode((request.tools, request.response_format)).decode())
    n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in said)
    return -(-n_bytes // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * (len(request.messages) + 1)


def _said(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()
