"""Makes the constraints of a request's answers."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher

from spillover.runtime.backend import Backend, Constraint
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import FORM_FIELD, Form, JsonObject, JsonSchema
from spillover.runtime.structured_output.gates import AfterMarker, MayOpen
from spillover.runtime.structured_output.grammar import (
    JSON_STYLE,
    LOOSE_JSON_STYLE,
    clean_schema,
    grammar_of,
    json_style,
)
from spillover.runtime.structured_output.json_text import spelled_out
from spillover.runtime.structured_output.matching import (
    GrammarConstraint,
    compile_grammar,
    first_lines,
)
from spillover.runtime.structured_output.schema_faults import fault_in
from spillover.runtime.structured_output.vocabulary import Vocabulary
from spillover.runtime.text.reasoning import TagPair
from spillover.runtime.tools.call_grammar import calls_grammar, calls_or_form_grammar, checked
from spillover.runtime.tools.plan import ToolPlan

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

    def prepare(self) -> None:
        """Make now what the first form would have to wait for."""
        _ = self.vocabulary.tokenizer

    def answer(self, form: Form | None, plan: ToolPlan | None) -> Make:
        """Holds an answer to *form*, or its tool calls to the shapes of *plan*."""
        if plan is None:
            assert form is not None
            return self.form(form)
        tools = checked(plan.tools, self._fault_of)
        if plan.must_call:
            return self.grammar(
                calls_grammar(
                    plan.format, tools, self._spell, several=plan.several, after_opening=False
                ),
                "tools",
            )
        if form is not None:
            if not isinstance(form, JsonObject | JsonSchema):
                raise InvalidRequest(
                    "tools go together with JSON only, not with a regex or grammar", FORM_FIELD
                )
            grammar = calls_or_form_grammar(
                plan.format, tools, self._spell, form, several=plan.several
            )
            return self.grammar(grammar, FORM_FIELD)
        grammar = calls_grammar(
            plan.format, tools, self._spell, several=plan.several, after_opening=True
        )
        return self.after_each(
            plan.format.opening,
            self.grammar(grammar, "tools"),
            repeats=plan.several and not plan.format.is_list,
        )

    def _fault_of(self, schema: dict[str, Any]) -> str:
        """Why arguments cannot be held to *schema*; empty when they can."""
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=json_style())
        is_error, messages = LLMatcher.validate_grammar_with_warnings(
            grammar, self.vocabulary.tokenizer
        )
        return first_lines(fault_in(schema) or messages[0]) if is_error else ""

    def _spell(self, marker: str) -> str:
        """A marker in a grammar: the number of its token, or its text."""
        token = next((t for t, text in self.vocabulary.controls.items() if text == marker), None)
        return json.dumps(marker) if token is None else f"<[{token}]>"

    def form(self, form: Form) -> Make:
        """Holds an answer to *form* from its first token on. Raises InvalidRequest."""
        return self._formed(form, JSON_STYLE).copy

    def rest_of(self, form: Form, begun: str) -> Make:
        """Holds an answer to *form*, of which *begun* has been written, maybe by another writer.
        Raises InvalidRequest when it has another form."""
        is_json = isinstance(form, JsonObject | JsonSchema)
        tokens = self.vocabulary.tokens_of(spelled_out(begun.lstrip()) if is_json else begun)
        for style in (JSON_STYLE, LOOSE_JSON_STYLE) if is_json else (JSON_STYLE,):
            constraint = self._formed(form, style).copy()
            if constraint.follow(tokens):
                return constraint.copy
        raise InvalidRequest("the answer so far, which is to go on, does not fit it", FORM_FIELD)

    def _formed(self, form: Form, style: dict[str, Any]) -> GrammarConstraint:
        grammar = grammar_of(form, style)
        try:
            return self._start(grammar, FORM_FIELD)
        except InvalidRequest as error:
            schema = form.schema if isinstance(form, JsonSchema) else {}
            fault = fault_in(clean_schema(schema, FORM_FIELD))
            if not fault:
                raise
            raise InvalidRequest(first_lines(fault), FORM_FIELD) from error

    def grammar(self, grammar: str, field: str) -> Make:
        """As form(), for a grammar of llguidance."""
        return self._start(grammar, field).copy

    def _start(self, grammar: str, field: str) -> GrammarConstraint:
        if not self.vocabulary.eog_tokens:
            raise InvalidRequest(
                "this model has no token that ends an answer, so no answer can be held to a form",
                field,
            )
        return self._compiled(grammar, field)

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
