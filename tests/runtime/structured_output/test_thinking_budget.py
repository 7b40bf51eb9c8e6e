"""A model that thinks for too long is made to answer."""

from __future__ import annotations

import numpy as np
import pytest

from spillover.runtime.backend import Constraint
from spillover.runtime.request import Regex
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.worker.loading import LoadedModel

THINK = TagPair("<think>", "</think>")


def tokens(loaded: LoadedModel, text: str) -> list[int]:
    ids: list[int] = loaded.backend.tokenize(text, add_special=False, parse_special=False).tolist()
    return ids


def allowed(constraint: Constraint) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def accept(constraint: Constraint, ids: list[int]) -> None:
    for token in ids:
        assert constraint.allows(token)
        constraint.accept(token)


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("n_most", [0, 3])
def test_the_closing_tag_is_forced_after_so_many_tokens(
    loaded: LoadedModel, factory: ConstraintFactory, is_inside: bool, n_most: int
) -> None:
    constraint = factory.within_budget(None, THINK, n_most, is_inside=is_inside)()
    if not is_inside:
        accept(constraint, tokens(loaded, "<think>"))
    thought = tokens(loaded, "one two three four five")[:n_most]
    accept(constraint, thought)
    for token in tokens(loaded, "</think>"):
        assert allowed(constraint) == {token}
        assert not constraint.allows(token + 1)
        constraint.accept(token)
    eogs = factory.vocabulary.eog_tokens
    assert not eogs & allowed(constraint)
    assert not any(map(constraint.allows, eogs))
    accept(constraint, tokens(loaded, "one two three four five"))
    assert eogs <= allowed(constraint)


def test_a_thought_cannot_end_the_answer(loaded: LoadedModel, factory: ConstraintFactory) -> None:
    constraint = factory.within_budget(None, THINK, 50, is_inside=True)()
    accept(constraint, tokens(loaded, "one"))
    eogs = factory.vocabulary.eog_tokens
    assert not eogs & allowed(constraint)
    assert not any(map(constraint.allows, eogs))
    accept(constraint, tokens(loaded, "</think>"))
    assert not eogs & allowed(constraint)
    accept(constraint, tokens(loaded, "one"))
    assert eogs <= allowed(constraint)


def test_an_answer_without_thoughts_has_no_budget(
    loaded: LoadedModel, factory: ConstraintFactory
) -> None:
    constraint = factory.within_budget(None, THINK, 0, is_inside=False)()
    accept(constraint, tokens(loaded, "one two three four five"))


def test_the_response_format_holds_behind_the_budget(
    loaded: LoadedModel, factory: ConstraintFactory
) -> None:
    digits = factory.from_start(Regex(pattern="[0-9]{2}"))
    make = factory.after_reasoning(digits, THINK, is_inside=True)
    constraint = factory.within_budget(make, THINK, 2, is_inside=True)()
    accept(constraint, tokens(loaded, "one two three")[:2])
    accept(constraint, tokens(loaded, "</think>"))
    assert not any(map(constraint.allows, tokens(loaded, "x")))
    accept(constraint, tokens(loaded, "42"))
    assert constraint.is_complete


def test_an_answer_of_white_space_alone_ends_behind_the_budget(
    loaded: LoadedModel, factory: ConstraintFactory
) -> None:
    """No token was allowed then, not even the end."""
    blank = factory.from_start(Regex(pattern=r"\s"))
    make = factory.after_reasoning(blank, THINK, is_inside=True)
    constraint = factory.within_budget(make, THINK, 0, is_inside=True)()
    accept(constraint, tokens(loaded, "</think>"))
    accept(constraint, factory.vocabulary.tokens_of(" "))
    assert constraint.is_complete
