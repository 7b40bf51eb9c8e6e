"""How the next token is chosen from the logits: the only place for these defaults."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from spillover.runtime.setting_help import Help, NoSetting

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

    The same seed gives the same text whatever else runs: the random draw of token *i* depends on
    (seed, i) alone. The exception is the backend's arithmetic, which may round differently for
    batches of other sizes, so that a near-tie falls the other way.
    """

    temperature: Annotated[
        float,
        Meta(ge=0.0, le=5.0),
        Help(
            "Randomness; 0 always picks the likeliest token.",
            flag="--temp",
            other_flag="--temperature",
        ),
    ] = 0.8
    top_k: Annotated[
        int,
        Meta(ge=0, le=1_000_000),
        Help("Choose among this many of the likeliest tokens; 0 means all.", flag="--top-k"),
    ] = 40
    top_p: Annotated[
        Probability,
        Help("Choose among the likeliest tokens that have this probability.", flag="--top-p"),
    ] = 0.95
    min_p: Annotated[
        Probability,
        Help("Least probability of a token, as a share of the likeliest one's.", flag="--min-p"),
    ] = 0.05
    typical_p: Annotated[
        Probability, Help("Locally typical sampling; 1 is off.", flag="--typical")
    ] = 1.0
    repeat_penalty: Annotated[
        float,
        Meta(gt=0.0, le=10.0),
        Help("Penalty of tokens that came before; 1 is off.", flag="--repeat-penalty"),
    ] = 1.0
    repeat_last_n: Annotated[
        Window,
        Help("Last tokens that the penalties look at; -1 means all.", flag="--repeat-last-n"),
    ] = 64
    presence_penalty: Annotated[
        Penalty,
        Help("Penalty of each token that came before; 0 is off.", flag="--presence-penalty"),
    ] = 0.0
    frequency_penalty: Annotated[
        Penalty,
        Help(
            "Penalty of a token for each time it came before; 0 is off.", flag="--frequency-penalty"
        ),
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        Meta(ge=0.0, le=10.0),
        Help("Strength of DRY, which stops loops; 0 is off.", flag="--dry-multiplier"),
    ] = 0.0
    dry_base: Annotated[
        float,
        Meta(ge=1.0, le=10.0),
        Help("How DRY's penalty grows with the loop.", flag="--dry-base"),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        Meta(ge=1, le=1024),
        Help("Tokens that may repeat without DRY's penalty.", flag="--dry-allowed-length"),
    ] = 2
    dry_penalty_last_n: Annotated[
        Window,
        Help("Last tokens that DRY looks at; -1 means all.", flag="--dry-penalty-last-n"),
    ] = 1024
    dry_sequence_breakers: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(max_length=32),
        Help("Text at which a loop ends for DRY.", flag="--dry-sequence-breaker"),
    ] = ("\n", ":", '"', "*")
    xtc_probability: Annotated[
        Probability,
        Help("How often XTC leaves out the likeliest tokens; 0 is off.", flag="--xtc-probability"),
    ] = 0.0
    xtc_threshold: Annotated[
        Probability,
        Help("Probability from which XTC leaves tokens out.", flag="--xtc-threshold"),
    ] = 0.1
    logit_bias: Annotated[
        dict[
            Annotated[int, Meta(ge=0, le=2**31 - 1)],
            Annotated[float, Meta(ge=-100.0, le=100.0)],
        ],
        Meta(max_length=MAX_LOGIT_BIAS),
        NoSetting(),
    ] = field(default_factory=dict)
    """Added to the raw logit of a token id; -100 forbids it, 100 forces it (OpenAI's meaning)."""
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None,
        Help("The same seed gives the same answer.", flag="--seed", default="random"),
    ] = None
    """None: a new random seed for each request."""

    @property
    def has_penalties(self) -> bool:
        """Whether a penalty for repetition, presence or frequency is on."""
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        )

    @property
    def has_dry(self) -> bool:
        return self.dry_multiplier > 0 and self.dry_penalty_last_n != 0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the token is always the argmax of the raw logits."""
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
