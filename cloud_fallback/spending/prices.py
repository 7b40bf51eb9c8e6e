"""What tokens cost, and what a request may cost. Money is counted in nano-dollars, rounded up."""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from spillover.cloud_fallback.events import ExpectedCost
from spillover.runtime.request import GenerationRequest, Message

NANO = 1_000_000_000
_NANO_PER_MICRO = 1000

BYTES_PER_TOKEN = 3
"""Of UTF-8. English has about 4 with today's tokenizers, so that estimates are rather too high."""
TOKENS_PER_MESSAGE = 8
TOKENS_PER_IMAGE = 5_000
"""As many as the companies' newest models count for a large image; most images take fewer."""
ASSUMED_COMPLETION_TOKENS = 4096
"""Reserved at first when a request sets no max_tokens; more is reserved while it is answered."""

Usd = Annotated[float, Meta(ge=0, le=1_000_000)]


def nano_usd(usd: float) -> int:
    return round(usd * NANO)


class Prices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars per million tokens, as a provider listed them on *priced_on*."""

    input_usd: Usd
    output_usd: Usd
    """For reasoning tokens too."""
    cached_input_usd: Usd | None = None
    """For prompt tokens that the provider had in its cache; None: as *input_usd*."""
    priced_on: date

    def nano_usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """The cost of one request; *cached_tokens* are part of *prompt_tokens*."""
        cached_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        micro_usd = (
            (prompt_tokens - cached_tokens) * self.input_usd
            + cached_tokens * cached_usd
            + completion_tokens * self.output_usd
        )
        return math.ceil(round(micro_usd * _NANO_PER_MICRO, 6))

    def longest(self, prompt_tokens: int, nano_usd: int) -> int | None:
        """The longest answer, in tokens, for *nano_usd*, which also pays for the prompt; None:
        answers are free."""
        if not self.output_usd:
            return None
        left = nano_usd - self.nano_usd(prompt_tokens, 0)
        n = int(left / (self.output_usd * _NANO_PER_MICRO))
        while n > 0 and self.nano_usd(prompt_tokens, n) > nano_usd:
            n -= 1
        return n

    @property
    def is_free(self) -> bool:
        return not (self.input_usd or self.output_usd or self.cached_input_usd)

    def cost_usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """The same in dollars, for a Leg."""
        return self.nano_usd(prompt_tokens, completion_tokens, cached_tokens) / NANO


FREE = Prices(input_usd=0, output_usd=0, priced_on=date.min)
"""For the user's own machine."""


class Estimate(Struct, frozen=True, kw_only=True):
    """The tokens of one request; *prices* None: not known."""

    prompt_tokens: int
    max_completion_tokens: int | None
    """None: the request sets no limit."""
    prices: Prices | None

    def nano_usd(self, completion_tokens: int) -> int:
        """The cost with an answer of that length; 0 where the price is not known."""
        return self.prices.nano_usd(self.prompt_tokens, completion_tokens) if self.prices else 0

    def cost(self, longest: int | None) -> ExpectedCost:
        """*longest*: the answer, in tokens, that the budget pays for; None: as long as wanted."""
        wanted = self.max_completion_tokens if longest is None else longest
        n_tokens = ASSUMED_COMPLETION_TOKENS if wanted is None else wanted
        is_known = self.prices is not None
        return ExpectedCost(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=n_tokens,
            prompt_usd=self.nano_usd(0) / NANO if is_known else None,
            usd=self.nano_usd(n_tokens) / NANO if is_known else None,
        )


def estimate(request: GenerationRequest, prices: Prices | None) -> Estimate:
    """What *request*, as it would be sent, may cost at a provider with these *prices*."""
    limit = request.max_tokens and request.max_tokens * request.n
    return Estimate(
        prompt_tokens=estimated_prompt_tokens(request), max_completion_tokens=limit, prices=prices
    )


def estimated_prompt_tokens(request: GenerationRequest) -> int:
    """About how many tokens a provider will count in the prompt; rather too many than too few."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    texts = [request.prompt or "", *map(_as_json, request.messages)]
    if request.tools or request.response_format:
        texts.append(msgspec.json.encode((request.tools, request.response_format)).decode())
    n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    n_extra = TOKENS_PER_MESSAGE * (len(request.messages) + 1) + TOKENS_PER_IMAGE * request.n_images
    return -(-n_bytes // BYTES_PER_TOKEN) + n_extra


def _as_json(message: Message) -> str:
    """The fields of *message* that are set and sent; no provider gets earlier reasoning."""
    names = (name for name in message.__struct_fields__ if name not in ("reasoning", "images"))
    fields = {name: value for name in names if (value := getattr(message, name))}
    return msgspec.json.encode(fields).decode()
