"""Makes the constraints of a request's answers."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import msgspec
from llguidance import LLMatcher

from spillover.runtime.backend import Backend, Constraint
from spillover.runtime.errors import ResponseFormatRefused
from spillover.runtime.request import JsonObject, JsonSchema, ResponseFormat
from spillover.runtime.structured_output.call_grammar import (
    calls_grammar,
    calls_or_answer_grammar,
    checked,
    tools_refused,
)
from spillover.runtime.structured_output.gates import AfterMarker, MayOpen
from spillover.runtime.structured_output.grammar import (
    JSON_STYLE,
    LOOSE_JSON_STYLE,
    clean_schema,
    grammar_of,
    json_style,
)
from spillover.runtime.structured_output.limits import Refuse
from spillover.runtime.structured_output.matching import (
    GrammarConstraint,
    compile_grammar,
    first_lines,
)
from spillover.runtime.structured_output.schema_faults import fault_in, freed, unheld_place
from spillover.runtime.structured_output.subschemas import Schema
from spillover.runtime.structured_output.thinking_budget import Free, ThinkingBudget
from spillover.runtime.structured_output.trial import Trial, TrialFailed, error_of
from spillover.runtime.structured_output.vocabulary import Vocabulary
from spillover.runtime.text.json_reader import normalize_escapes
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.tools.plan import ToolPlan

TOOLS_S = 6.0
"""Seconds of computing after which the tools of a request are refused: each of up to 128 may take
as long as one response format."""

N_REMEMBERED = 16
"""Grammars that stay compiled: a client often sends the same response format or tools again."""

_encode = msgspec.msgpack.Encoder().encode

Make = Callable[[], Constraint]
"""Gives a constraint at its beginning, one for each answer."""


class ConstraintFactory:
    """For one loaded model. Its vocabulary is read with the first constraint."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._trial = Trial()
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._compiled = functools.lru_cache(N_REMEMBERED)(self._compile)
        self._answers: dict[bytes, Make] = {}
        """Those with tools, by what was asked for; the one that was asked for last is the last."""
        self._error_of = functools.lru_cache(N_REMEMBERED)(self._find_error)

    def _compile(self, grammar: str, refuse: Refuse) -> GrammarConstraint:
        if error := self._error_of(grammar):
            raise refuse(first_lines(error))
        return compile_grammar(self.vocabulary, grammar, refuse)

    def _find_error(self, grammar: str) -> str:
        try:
            return self._trial.run(error_of, grammar)
        except TrialFailed as failure:
            return str(failure)

    @property
    def vocabulary(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._backend)
            return self._vocabulary

    def prepare(self) -> None:
        """Make the tokenizer tables that the first constraint needs."""
        _ = self.vocabulary.tokenizer

    def answer(self, response_format: ResponseFormat | None, plan: ToolPlan | None) -> Make:
        """Holds an answer to *response_format*, and its tool calls to the formats of *plan*."""
        if plan is None:
            assert response_format is not None
            return self.from_start(response_format)
        key = _encode((response_format, plan))
        make = self._answers.pop(key, None) or self._answer(response_format, plan)
        self._answers[key] = make
        if len(self._answers) > N_REMEMBERED:
            del self._answers[next(iter(self._answers))]
        return make

    def _answer(self, response_format: ResponseFormat | None, plan: ToolPlan) -> Make:
        most_s = self._trial.spent_s + TOOLS_S

        def fault_of(schema: Schema) -> str:
            if self._trial.spent_s > most_s:
                raise tools_refused(
                    "tools: their parameters take too long to compile: simplify them"
                )
            return self._fault_of(schema)

        tools = checked(plan.tools, fault_of, self._freed)
        if plan.must_call:
            return self.grammar(
                calls_grammar(
                    plan.format, tools, self._spell, several=plan.several, after_opening=False
                ),
                tools_refused,
            )
        if response_format is not None:
            if not isinstance(response_format, JsonObject | JsonSchema):
                raise ResponseFormatRefused(
                    "tools can be combined with JSON, not with a regex or grammar"
                )
            grammar = calls_or_answer_grammar(
                plan.format, tools, self._spell, response_format, several=plan.several
            )
            return self.grammar(grammar, ResponseFormatRefused)
        grammar = calls_grammar(
            plan.format, tools, self._spell, several=plan.several, after_opening=True
        )
        return self.after_each(
            plan.format.opening,
            self.grammar(grammar, tools_refused),
            repeats=plan.several and plan.format.repeats,
        )

    def _fault_of(self, schema: Schema) -> str:
        """Why arguments cannot be held to *schema*; empty when they can."""
        if fault := unheld_place(schema):
            return fault
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=json_style())
        error = self._error_of(grammar)
        return first_lines(self._fault_in(schema) or error) if error else ""

    def _fault_in(self, schema: Schema) -> str:
        with contextlib.suppress(TrialFailed):
            return self._trial.run(fault_in, schema)
        return ""

    def _freed(self, schema: Schema) -> Schema:
        with contextlib.suppress(TrialFailed):
            return self._trial.run(freed, schema)
        return {"type": "object"}

    def _spell(self, marker: str) -> str:
        """A marker in a grammar: its text, with the numbers of the control tokens in it."""
        controls = {text: token for token, text in self.vocabulary.controls.items()}
        inside = sorted((text for text in controls if text in marker), key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, inside)) + ")", marker) if inside else []
        return " ".join(
            f"<[{controls[part]}]>" if part in controls else json.dumps(part)
            for part in parts or [marker]
            if part
        )

    def from_start(self, response_format: ResponseFormat) -> Make:
        """Holds an answer to *response_format* from its first token on. Raises
        ResponseFormatRefused."""
        return self._at_start(response_format, JSON_STYLE).copy

    def rest_of(self, response_format: ResponseFormat, begun: str) -> Make:
        """Holds the rest of an answer to *response_format*; *begun* was written before, perhaps by
        another writer. Raises ResponseFormatRefused when *begun* does not follow it."""
        is_json = isinstance(response_format, JsonObject | JsonSchema)
        tokens = self.vocabulary.tokens_of(normalize_escapes(begun.lstrip()) if is_json else begun)
        for style in (JSON_STYLE, LOOSE_JSON_STYLE) if is_json else (JSON_STYLE,):
            constraint = self._at_start(response_format, style).copy()
            if constraint.follow(tokens):
                return constraint.copy
        raise ResponseFormatRefused("the answer so far does not follow the response format")

    def _at_start(
        self, response_format: ResponseFormat, style: dict[str, Any]
    ) -> GrammarConstraint:
        grammar = grammar_of(response_format, style)
        schema = response_format.schema if isinstance(response_format, JsonSchema) else {}
        schema = clean_schema(schema, ResponseFormatRefused)
        if fault := unheld_place(schema):
            raise ResponseFormatRefused(fault)
        try:
            return self._start(grammar, ResponseFormatRefused)
        except ResponseFormatRefused as error:
            fault = self._fault_in(schema)
            if not fault:
                raise
            raise ResponseFormatRefused(first_lines(fault)) from error

    def grammar(self, grammar: str, refuse: Refuse) -> Make:
        """As from_start(), for a grammar of llguidance."""
        return self._start(grammar, refuse).copy

    def _start(self, grammar: str, refuse: Refuse) -> GrammarConstraint:
        if not self.vocabulary.eog_tokens:
            raise refuse("this model has no end token: its answers cannot be constrained")
        return self._compiled(grammar, refuse)

    def after_reasoning(self, make: Make, pair: TagPair, *, is_inside: bool) -> Make:
        """*make* once the model has thought: between the tags of *pair*, which the prompt has
        opened (*is_inside*), or which the answer may open."""

        def inside() -> Constraint:
            return AfterMarker(self.vocabulary, pair.close, make, may_end=False, repeats=False)

        if is_inside:
            return inside
        ids = self._backend.tokenize(pair.open, add_special=False, parse_special=True).tolist()
        return lambda: MayOpen(self.vocabulary, ids, make(), inside)

    def after_lead(self, make: Make, lead: str) -> Make:
        """*make*, before which *lead* may be written."""
        ids = self._backend.tokenize(lead, add_special=False, parse_special=True).tolist()
        return lambda: MayOpen(self.vocabulary, ids, make(), make)

    def within_budget(
        self, make: Make | None, pair: TagPair, n_most: int, *, is_inside: bool
    ) -> Make:
        """*make*, or any answer, with at most *n_most* tokens of reasoning between the tags of
        *pair*."""
        ids = self._backend.tokenize(pair.close, add_special=False, parse_special=True).tolist()

        def limited() -> Constraint:
            inner = make() if make else Free(self.vocabulary)
            return ThinkingBudget(self.vocabulary, pair, ids, inner, n_most, is_inside=is_inside)

        return limited

    def after_each(self, marker: str, make: Make, *, repeats: bool) -> Make:
        """Free text, but for what follows *marker*."""
        return lambda: AfterMarker(self.vocabulary, marker, make, may_end=True, repeats=repeats)
