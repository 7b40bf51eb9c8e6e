"""A compiled grammar, and where one answer is in it."""

from __future__ import annotations

import re

import numpy as np
from llguidance import LLMatcher
from llguidance._lib import LLParserLimits

from spillover.runtime.backend import Mask
from spillover.runtime.structured_output.limits import Refuse
from spillover.runtime.structured_output.vocabulary import Vocabulary

_MAX_MESSAGE_CHARS = 300

MAX_ITEMS_IN_ROW = 3_000
"""What may be expected at one place of an answer: some 600 optional members, 30 ms for a mask."""
N_TRIED = 3
"""Tokens by which a grammar is tried before it is accepted."""


def compile_grammar(vocabulary: Vocabulary, grammar: str, refuse: Refuse) -> GrammarConstraint:
    """A constraint at the beginning of *grammar*. Raises what *refuse* makes when no answer can
    follow it."""
    matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=_limits())
    if matcher.is_error():
        raise refuse(first_lines(matcher.get_error()))
    constraint = GrammarConstraint(vocabulary, matcher)
    # The first mask is the most expensive one; all copies share what it computes.
    constraint.mask()
    if constraint.has_failed or not _can_begin(constraint.copy()):
        raise refuse("no answer can follow it within the limits of llguidance: simplify it")
    return constraint


def _can_begin(constraint: GrammarConstraint) -> bool:
    """Whether a first few tokens lead anywhere: an object with very many members, or a very long
    list of alternatives, fails where they begin."""
    for _ in range(N_TRIED):
        if constraint.is_complete:
            return True
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        token = int(bits.argmax())
        if constraint.has_failed or constraint.ends(token):
            break
        constraint.accept(token)
    return not constraint.has_failed


def _limits() -> LLParserLimits:
    """llguidance's own are meant for untrusted grammars: at most some 20 ms for a mask."""
    return LLParserLimits(verbose_errors=False, max_items_in_row=MAX_ITEMS_IN_ROW)


def first_lines(message: str) -> str:
    """The beginning of a message of llguidance, as one line."""
    return re.sub(r"\s+", " ", message)[:_MAX_MESSAGE_CHARS].strip()


class GrammarConstraint:
    """A Constraint from the first token on; see runtime/backend.py."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._is_stuck = False

    def copy(self) -> GrammarConstraint:
        """Another answer at the same place."""
        return GrammarConstraint(self._vocabulary, self._matcher.deep_copy())

    def follow(self, tokens: list[int]) -> bool:
        """Take the beginning of an answer; False, and nothing taken, when it does not match."""
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        return self._matcher.consume_tokens(tokens)

    @property
    def has_failed(self) -> bool:
        return self._is_stuck or self._matcher.is_error()

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped() and not self.has_failed

    def ends(self, token: int) -> bool:
        """Whether *token* ends an answer."""
        return token in self._vocabulary.eog_tokens

    def allows(self, token: int) -> bool:
        if self.ends(token):
            return self.has_failed or self._matcher.is_accepting()
        return not self._is_stuck and self._matcher.validate_tokens([token]) == 1

    def mask(self) -> Mask:
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        words = words[: self._vocabulary.n_words]
        self._is_stuck |= not words.any()
        return self._vocabulary.eog_mask if self.has_failed else words

    def accept(self, token: int) -> None:
        if not self.ends(token):
            self._matcher.consume_token(token)
