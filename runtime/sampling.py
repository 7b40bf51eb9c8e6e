"""How the next token is chosen from the logits: one value, and the only place of its defaults."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Window = Annotated[int, Meta(ge=-1, le=1_048_576)]
"""Number of last tokens looked at; 0 switches the sampler off, -1 is the whole context."""

MAX_LOGIT_BIAS = 1024


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampler settings. Samplers run in the order in which llama.cpp's server runs them:
    penalties, DRY, top-k, typical, top-p, min-p, XTC, temperature.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0, ``typical_p`` 1,
    ``repeat_penalty`` 1, ``dry_multiplier`` 0 and ``xtc_probability`` 0 switch a sampler off.

    With the same seed the same text comes out whatever else runs: the random draw of token *i*
    depends on (seed, i) alone. What is left is the backend's arithmetic, which may round
    differently for batches of other sizes; a near-tie may then fall the other way.
    """

    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] = 0.8
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 40
    top_p: Probability = 0.95
    min_p: Probability = 0.05
    typical_p: Probability = 1.0
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] = 1.0
    repeat_last_n: Window = 64
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    dry_multiplier: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    dry_base: Annotated[float, Meta(ge=1.0, le=10.0)] = 1.75
    dry_allowed_length: Annotated[int, Meta(ge=1, le=1024)] = 2
    dry_penalty_last_n: Window = 1024
    dry_sequence_breakers: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=32)
    ] = ("\n", ":", '"', "*")
    xtc_probability: Probability = 0.0
    xtc_threshold: Probability = 0.1
    logit_bias: Annotated[
        dict[
            Annotated[int, Meta(ge=0, le=2**31 - 1)],
            Annotated[float, Meta(ge=-100.0, le=100.0)],
        ],
        Meta(max_length=MAX_LOGIT_BIAS),
    ] = field(default_factory=dict)
    """Added to the raw logit of a token id; -100 forbids it, 100 forces it (OpenAI's meaning)."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    """None: a new random seed for each request."""

    @property
    def has_penalties(self) -> bool:
        """Whether repetition, presence or frequency count."""
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        )

    @property
    def has_dry(self) -> bool:
        return self.dry_multiplier > 0 and self.dry_penalty_last_n != 0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether only the argmax of the raw logits matters."""
        return (
            self.temperature == 0
            and not self.logit_bias
            and not self.has_penalties
            and not self.has_dry
        )

    def n_window(self, n_ctx: int) -> int:
        """How many last tokens the samplers look at."""
        penalties = self.repeat_last_n if self.has_penalties else 0
        dry = self.dry_penalty_last_n if self.has_dry else 0
        return n_ctx if min(penalties, dry) < 0 else max(penalties, dry)
