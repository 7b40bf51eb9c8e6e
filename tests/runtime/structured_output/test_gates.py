"""Forms that begin later: after the model has thought."""

from __future__ import annotations

import numpy as np
import pytest

from spillover.runtime.backend import Constraint
from spillover.runtime.request import Regex
from spillover.runtime.structured_output.factory import ConstraintFactory
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.worker.loading import LoadedModel

THINK = TagPair("<think>", "</think>")


class Writer:
    """Writes text under a constraint, token by token."""

    def __init__(self, loaded: LoadedModel, factory: ConstraintFactory, *, is_inside: bool) -> None:
        self._backend = loaded.backend
        self._eog = min(factory.vocabulary.eog_tokens)
        digits = factory.from_start(Regex(pattern="[0-9]{2}"))
        self.constraint: Constraint = factory.after_reasoning(digits, THINK, is_inside=is_inside)()

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self._backend.tokenize(
            text, add_special=False, parse_special=False
        ).tolist()
        return ids

    def write(self, text: str) -> bool:
        for token in self.tokens(text):
            if not self.constraint.allows(token):
                return False
            self.constraint.accept(token)
        return True

    @property
    def may_end(self) -> bool:
        masked = np.unpackbits(self.constraint.mask().view(np.uint8), bitorder="little")
        allowed = self.constraint.allows(self._eog)
        assert allowed == bool(masked[self._eog])
        return allowed


@pytest.fixture(params=[True, False], ids=["opened by the prompt", "opened by the answer"])
def writer(
    request: pytest.FixtureRequest, loaded: LoadedModel, factory: ConstraintFactory
) -> Writer:
    writer = Writer(loaded, factory, is_inside=request.param)
    if not request.param:
        assert writer.write("<think>")
    return writer


def test_reasoning_is_free_and_the_answer_follows_the_format(writer: Writer) -> None:
    assert writer.write("Let me see: 1 < 2, and </thin is no tag.")
    assert not writer.may_end
    assert writer.write("</think>")
    assert not writer.may_end
    assert not writer.write("a")
    assert writer.write("42")
    assert writer.may_end
    assert writer.constraint.is_complete


def test_an_answer_may_go_without_thoughts(loaded: LoadedModel, factory: ConstraintFactory) -> None:
    writer = Writer(loaded, factory, is_inside=False)
    assert not Writer(loaded, factory, is_inside=False).write("x")
    assert writer.write("42")
    assert writer.may_end


def test_no_token_closes_the_reasoning_and_continues(
    loaded: LoadedModel, factory: ConstraintFactory
) -> None:
    writer = Writer(loaded, factory, is_inside=True)
    vocabulary = factory.vocabulary
    assert writer.write("</think")
    bits = np.unpackbits(writer.constraint.mask().view(np.uint8), bitorder="little")
    for token, piece in enumerate(vocabulary.pieces):
        if piece.startswith(b">") and piece[1:].strip():
            assert not writer.constraint.allows(token)
            assert not bits[token]


@pytest.mark.parametrize("lead", ["", "assistant: "])
def test_an_answer_may_be_led_in_behind_its_reasoning(
    loaded: LoadedModel, factory: ConstraintFactory, lead: str
) -> None:
    """A channel's name had no place before a constrained answer."""
    digits = factory.after_lead(factory.from_start(Regex(pattern="[0-9]{2}")), "assistant: ")
    writer = Writer(loaded, factory, is_inside=True)
    writer.constraint = factory.after_reasoning(digits, THINK, is_inside=True)()
    assert writer.write("So.</think>")
    assert writer.write(lead)
    assert not writer.write("x")
    assert writer.write("42")
    assert writer.may_end


def test_an_answer_may_begin_as_its_reasoning_would(
    loaded: LoadedModel, factory: ConstraintFactory
) -> None:
    """Where the tag is several tokens, an answer that began with the first of them had to go on
    with the others: "<html>" became a thought."""
    writer = Writer(loaded, factory, is_inside=False)
    writer.constraint = factory.after_reasoning(
        factory.after_each("CALL", factory.from_start(Regex(pattern="[0-9]{2}")), repeats=False),
        THINK,
        is_inside=False,
    )()
    assert writer.tokens("<think>")[0] == writer.tokens("<html>")[0]
    assert writer.write("<html>CALL")
    assert not writer.write("x")
    assert writer.write("42")
    assert writer.constraint.is_complete
