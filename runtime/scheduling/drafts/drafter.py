"""Proposes what follows in one stream, and knows how often that was right."""

from __future__ import annotations

from spillover.runtime.backend import N_CHECKED, Tokens
from spillover.runtime.scheduling.drafts.prompt_lookup import PromptLookup

_BY_MODEL = 0
_FIRST_RATES = {_BY_MODEL: 0.6, 2: 0.3, 3: 0.5, 4: 0.7}
"""A guess, by how many tokens match; and for those that a draft model proposes."""

_LEARNING_RATE = 0.1
_RECOVERY = 0.002
"""How fast a draft model's rate returns to the guess while it is not asked."""


class Drafter:
    """Drafts are judged by the tokens that come, checked or not: so a stream that begins to repeat
    its text is noticed at no cost."""

    def __init__(self) -> None:
        self.draft: list[int] = []
        """The tokens that may come next."""
        self._lookup = PromptLookup()
        self._rates = dict(_FIRST_RATES)
        self._n_matched = 0
        self._n_seen = 0

    @property
    def rate(self) -> float:
        """The probability of a token of the draft, if those before it are right."""
        return self._rates[self._n_matched] if self.draft else 0.0

    @property
    def model_rate(self) -> float:
        """The same for a draft model."""
        return self._rates[_BY_MODEL]

    def take(self, draft: list[int]) -> None:
        """Judge what a draft model proposes, instead of what the text does."""
        self.draft, self._n_matched = draft, _BY_MODEL

    def follow(self, tokens: Tokens) -> None:
        """Judge the last draft by the *tokens* that have come, all those of the stream so far, and
        make the next one."""
        if self.draft:
            self._judge(tokens[self._n_seen :][:N_CHECKED].tolist())
        if not self.draft or self._n_matched != _BY_MODEL:
            self._rates[_BY_MODEL] += _RECOVERY * (_FIRST_RATES[_BY_MODEL] - self.model_rate)
        self._n_seen = len(tokens)
        self._lookup.extend(tokens)
        self._n_matched, self.draft = self._lookup.find(tokens, N_CHECKED)

    def _judge(self, came: list[int]) -> None:
        for proposed, token in zip(self.draft, came, strict=False):
            is_right = proposed == token
            self._rates[self._n_matched] += _LEARNING_RATE * (is_right - self.rate)
            if not is_right:
                return
