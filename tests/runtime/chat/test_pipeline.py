"""From token bytes to text: whatever the cuts, the text is the same."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.text.detokenizer import Detokenizer
from spillover.runtime.text.reasoning import ReasoningSplitter, starts_inside
from spillover.runtime.text.stop_matcher import StopMatcher
from spillover.runtime.text.template_tags import REASONING_TAGS
from spillover.runtime.tools.formats import HARMONY, HERMES
from spillover.runtime.tools.parser import CallDelta, ToolParser
from tests.answers import first_stop

FAMILY = "👨‍👩‍👧 🇩🇪🇫🇷 é e\u0301 नमस्ते"


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(c, len(content)) for c in cuts})
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


@given(st.binary() | st.text().map(str.encode), st.lists(st.integers(0, 40)))
def test_any_cut_of_the_bytes_gives_the_same_text(content: bytes, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    text = "".join(detokenizer.feed(piece) for piece in cut(content, cuts))
    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(content)
    assert text + detokenizer.flush() == whole


def test_a_character_that_is_cut_at_the_end_adds_nothing() -> None:
    """It used to become U+FFFD, which the answer's own response format refused later."""
    pipeline = TextPipeline((), split_reasoning=True)
    pieces = pipeline.feed(b'{"a": "caf' + "é".encode()[:1]) + pipeline.flush()
    assert pieces == [(False, '{"a": "caf')]


def test_no_delta_ends_inside_a_character_or_after_a_joiner() -> None:
    detokenizer = Detokenizer()
    deltas = [detokenizer.feed(bytes([byte])) for byte in FAMILY.encode()]
    assert "\ufffd" not in "".join(deltas)
    assert not any(delta.endswith("\u200d") for delta in deltas)
    assert "🇩🇪" in deltas
    assert "".join(deltas) + detokenizer.flush() == FAMILY


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    st.lists(st.integers(0, 30)),
)
def test_any_chunking_stops_at_the_same_place(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    pieces = [piece.decode() for piece in cut(text.encode(), cuts)]
    released = "".join(matcher.feed(piece) for piece in pieces) + matcher.flush()
    assert released == first_stop(text, stops)


def test_only_a_possible_beginning_of_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(("\n\nUser:",))
    assert matcher.feed("Hello\n") == "Hello"
    assert matcher.feed("\nUs") == ""
    assert matcher.feed("ed") == "\n\nUsed"
    assert matcher.feed("\n\nUser: more") == ""
    assert matcher.stopped == "\n\nUser:"


@given(st.sampled_from(REASONING_TAGS), st.lists(st.integers(0, 60)))
def test_reasoning_is_split_off_wherever_its_tags_are_cut(
    pair: tuple[str, str], cuts: list[int]
) -> None:
    text = f"\n{pair[0]}\n I think < 3 so. \n{pair[1]}\n\nThe answer < 4."
    splitter = ReasoningSplitter()
    pieces = [p for c in cut(text.encode(), cuts) for p in splitter.feed(c.decode())]
    pieces += splitter.flush()
    assert "".join(t for inside, t in pieces if inside) == "I think < 3 so."
    assert "".join(t for inside, t in pieces if not inside) == "The answer < 4."


@given(st.sampled_from(REASONING_TAGS), st.lists(st.integers(0, 80)))
def test_reasoning_may_come_in_several_blocks(pair: tuple[str, str], cuts: list[int]) -> None:
    text = f"{pair[0]}First.{pair[1]}\n{pair[0]}Then.{pair[1]}\n Is it `{pair[0]}`?"
    splitter = ReasoningSplitter()
    pieces = [p for c in cut(text.encode(), cuts) for p in splitter.feed(c.decode())]
    pieces += splitter.flush()
    assert "".join(t for inside, t in pieces if inside) == "First.Then."
    assert "".join(t for inside, t in pieces if not inside) == f"Is it `{pair[0]}`?"


def test_an_answer_without_tags_is_left_alone() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("  <thin air> is") == [(False, "  <thin air> is")]


def test_an_answer_may_begin_inside_its_reasoning() -> None:
    pair = starts_inside("<|assistant|><think>\n")
    splitter = ReasoningSplitter(pair)
    assert splitter.feed("hm") == [(True, "hm")]
    assert splitter.feed("</think>yes") == [(False, "yes")]


@given(st.lists(st.binary(max_size=6), max_size=20), st.integers(0, 20))
def test_the_pipeline_is_a_function_of_the_tokens(pieces: list[bytes], n: int) -> None:
    stops = ("ab", "\n\n")
    first = TextPipeline(stops, split_reasoning=True)
    again = TextPipeline(stops, split_reasoning=True)
    released = [first.feed(piece) for piece in pieces]
    assert [again.feed(piece) for piece in pieces[:n]] == released[:n]
    assert [again.feed(piece) for piece in pieces[n:]] == released[n:]
    assert again.flush() == first.flush()


CALLED = 'See.\n<tool_call>\n{"name": "add", "arguments": {"a": "x.y"}}\n</tool_call>Done. Bye.'


@given(cuts=st.lists(st.integers(0, len(CALLED)), max_size=8))
def test_stop_strings_end_text_and_no_calls(cuts: list[int]) -> None:
    """A stop at a line break used to end every call: its form has some that nobody sees."""
    parser = ToolParser(HERMES, {"add": {}}, streams=True)
    pipeline = TextPipeline((" B", "x.y", "\n"), split_reasoning=False, tools=parser)
    pieces = [p for part in cut(CALLED.encode(), cuts) for p in pipeline.feed(part)]
    pieces += pipeline.flush()
    assert "".join(p[1] for p in pieces if isinstance(p, tuple)) == "See.Done."
    assert "".join(p.arguments for p in pieces if isinstance(p, CallDelta)) == '{"a": "x.y"}'
    assert pipeline.has_calls
    assert pipeline.stopped == " B"


def test_a_stop_string_does_not_reach_from_a_thought_into_the_answer() -> None:
    parser = ToolParser(HERMES, {"add": {}}, streams=True)
    pipeline = TextPipeline(("ab",), split_reasoning=True, tools=parser)
    pieces = pipeline.feed(b"<think>a</think>b") + pipeline.flush()
    assert pieces == [(True, "a"), (False, "b")]


def test_a_stop_string_counts_in_the_answer_alone() -> None:
    """In the reasoning it used to end the answer before it began."""
    pair = starts_inside("<think>")
    pipeline = TextPipeline((" a",), split_reasoning=True, inside=pair)
    pieces = pipeline.feed(b"this is a thought</think>here is a word") + pipeline.flush()
    assert pieces == [(True, "this is a thought"), (False, "here is")]
    assert pipeline.stopped == " a"


HARMONY_THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
HARMONY_CALL = 'to=functions.add<|channel|>commentary json<|message|>{"a": 1}'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "said", "n_calls"),
    [
        ("<|channel|>final<|message|>Three.", "Three.", 0),
        (f" {HARMONY_CALL}", "", 1),
        ('<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}', "", 1),
        (
            "<|channel|>commentary<|message|>I add.<|end|><|start|>assistant" + HARMONY_CALL,
            "I add.",
            1,
        ),
    ],
)
def test_the_channels_of_harmony_are_reasoning_calls_and_answer(
    text: str, said: str, n_calls: int, size: int
) -> None:
    """All of them used to be one text: "analysisHm.assistantfinalThree."."""
    parser = ToolParser(HARMONY, {"add": {}}, streams=True)
    pipeline = TextPipeline((), split_reasoning=True, tools=parser)
    whole = (HARMONY_THOUGHT + text).encode()
    pieces = [p for i in range(0, len(whole), size) for p in pipeline.feed(whole[i : i + size])]
    pieces += pipeline.flush()
    texts = {True: "", False: ""}
    arguments = ""
    for piece in pieces:
        if isinstance(piece, CallDelta):
            arguments += piece.arguments
        else:
            texts[piece[0]] += piece[1]
    assert texts == {True: "Hm.", False: said}
    assert parser.n_calls == n_calls
    assert arguments == '{"a": 1}' * n_calls


def test_a_thought_that_is_cut_stays_reasoning() -> None:
    for pair in REASONING_TAGS:
        pipeline = TextPipeline((), split_reasoning=True)
        pieces = pipeline.feed(f"{pair.open}So far".encode()) + pipeline.flush()
        assert pieces
        assert all(piece[0] is True for piece in pieces if isinstance(piece, tuple))
