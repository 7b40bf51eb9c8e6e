"""Proposes what follows in one stream, and knows how often that was right."""

from __future__ import annotations

from spillover.runtime.backend import N_CHECKED, Tokens
from spillover.runtime.scheduling.prompt_lookup import PromptLookup

_FIRST_RATES = {2: 0.3, 3: 0.5, 4: 0.7}
"""A guess, by how many tokens match."""

_LEARNING_RATE = 0.1


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
        return self._rates.get(self._n_matched, 0.0)

    def follow(self, tokens: Tokens) -> None:
        """Judge the last draft by the *tokens* that have come, all those of the stream so far, and
        make the next one."""
        if self.draft:
            self._judge(tokens[self._n_seen :][:N_CHECKED].tolist())
        self._n_seen = len(tokens)
        self._lookup.extend(tokens)
        self._n_matched, self.draft = self._lookup.find(tokens, N_CHECKED)

    def _judge(self, came: list[int]) -> None:
        for proposed, token in zip(self.draft, came, strict=False):
            is_right = proposed == token
            self._rates[self._n_matched] += _LEARNING_RATE * (is_right - self.rate)
            if not is_right:
                return
