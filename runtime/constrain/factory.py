"""Makes the constraints of a request's answers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

from spillover.runtime.backend import Backend, Constraint
from spillover.runtime.constrain.gates import AfterMarker, MayOpen
from spillover.runtime.constrain.grammar import grammar_of
from spillover.runtime.constrain.matching import GrammarConstraint, compile_grammar
from spillover.runtime.constrain.vocabulary import Vocabulary
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import FORM_FIELD, Form
from spillover.runtime.text.reasoning import TagPair

N_REMEMBERED = 16
"""Grammars that stay compiled: one client asks for the same form again and again."""

Make = Callable[[], Constraint]
"""Gives a constraint at its beginning, one for each answer."""


class ConstraintFactory:
    """For one loaded model. Its vocabulary is read when the first form is asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._compiled = functools.lru_cache(N_REMEMBERED)(self._compile)

    def _compile(self, grammar: str, field: str) -> GrammarConstraint:
        return compile_grammar(self.vocabulary, grammar, field)

    @property
    def vocabulary(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._backend)
            return self._vocabulary

    def form(self, form: Form) -> Make:
        """Holds an answer to *form* from its first token on. Raises InvalidRequest."""
        return self.grammar(grammar_of(form), FORM_FIELD)

    def grammar(self, grammar: str, field: str) -> Make:
        """As form(), for a grammar of llguidance."""
        if not self.vocabulary.eog_tokens:
            raise InvalidRequest(
                "this model has no token that ends an answer, so no answer can be held to a form",
                field,
            )
        return self._compiled(grammar, field).copy

    def after_reasoning(self, make: Make, pair: TagPair, *, is_inside: bool) -> Make:
        """*make* once the model has thought: between the tags of *pair*, which the prompt has
        opened (*is_inside*), or which the answer may open."""

        def inside() -> Constraint:
            return AfterMarker(self.vocabulary, pair.close, make, may_end=False, repeats=False)

        if is_inside:
            return inside
        ids = self._backend.tokenize(pair.open, add_special=False, parse_special=True).tolist()
        return lambda: MayOpen(self.vocabulary, ids, make(), inside)

    def after_each(self, marker: str, make: Make, *, repeats: bool) -> Make:
        """Free text, but for what follows *marker*."""
        return lambda: AfterMarker(self.vocabulary, marker, make, may_end=True, repeats=repeats)
