"""What a provider's tokens cost. Money is counted in whole nano-dollars, rounded up."""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated

from msgspec import Meta, Struct

NANO = 1_000_000_000
_NANO_PER_MICRO = 1000

Usd = Annotated[float, Meta(ge=0, le=1_000_000)]


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
        """The most tokens of answer for *nano_usd*, which pays the prompt; None: they are free."""
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
"""For a machine of one's own."""
