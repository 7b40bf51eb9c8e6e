"""The tags of chat templates: each of them is known to everybody who has to know it."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.policy.text.leaks import Leaks
from spillover.runtime.text.reasoning import ReasoningSplitter, starts_inside
from spillover.runtime.text.template_tags import (
    REASONING_TAGS,
    TAGS,
    TURN_HEADINGS,
    TURN_TAGS,
    TagPair,
    has_tags,
    leak_start,
    n_open_tag,
)
from spillover.runtime.tools.formats import FORMATS
from spillover.runtime.tools.tool_format import ToolFormat


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_goes_to_another_model(tag: str) -> None:
    assert leak_start(f"Done. {tag} So") == 6
    assert leak_start(f"The tag `{tag}` is quoted.") is None
    assert has_tags(f"```{tag}```")
    assert n_open_tag(f"Done. {tag[:-1]}") == len(tag) - 1


@pytest.mark.parametrize("tag", [*TURN_TAGS, *TURN_HEADINGS])
def test_no_turn_of_the_template_stays_in_an_answer(tag: str) -> None:
    leaks = Leaks("")
    leaks.feed(f"Done.{tag[:3]}", 0)
    assert leaks.is_open or leaks.found_at is not None
    leaks.feed(f"{tag[3:]} So", len(f"Done.{tag[:3]}"))
    assert leaks.found_at == 5


@pytest.mark.parametrize("pair", REASONING_TAGS)
def test_reasoning_is_separated_by_each_pair_of_tags(pair: TagPair) -> None:
    assert ReasoningSplitter().feed(f"{pair.open}a{pair.close}b") == [(True, "a"), (False, "b")]
    assert starts_inside(f"<|assistant|>{pair.open}\n") is pair


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_what_opens_and_closes_a_call_is_a_tag(format: ToolFormat) -> None:
    if format.opening.isalpha() or format.leads or format.may_be_text:  # other texts have it too
        return
    assert leak_start(f"Well. {format.opening}") == 6
    assert not format.closing or leak_start(f"Well. {format.closing.strip()}") == 6


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("Fine. Nothing here, not even <b>bold</b> or a < b.", None),
        ("Done.<|im_end|>\n<|im_start|>user", 5),
        ("Done.<｜end▁of▁sentence｜>", 5),  # noqa: RUF001
        ("Well <think> I should", 5),
        ("Well <seed:think> I should", 5),
        ("Done.</think> So", 5),
        ('<tool_call>\n{"name": "wea', 0),
        ("Ok [/INST] and", 3),
        ("The token `<|im_end|>` ends a turn.", None),
        ("```\n<|im_end|>\n```\nends a turn", None),
        ("```\n<|im_end|>\n```\nends<|im_end|>", 23),
    ],
)
def test_leaks_are_found_and_quotations_left_alone(text: str, start: int | None) -> None:
    assert leak_start(text) == start


def test_half_a_tool_call_is_found_where_tools_are() -> None:
    text = 'I will look.\n{"name": "weather", "arguments": {"ci'
    assert leak_start(text, has_tools=True) == 13
    assert leak_start(text) is None


@pytest.mark.parametrize(
    ("text", "n"),
    [("a <|im_e", 6), ("a <thin", 5), ("a <", 0), ("a [TOOL_", 6), ("a <b", 0), ("`<thin", 0)],
)
def test_half_a_tag_is_seen(text: str, n: int) -> None:
    assert n_open_tag(text) == n


def test_a_prompt_in_a_chat_template_is_seen() -> None:
    assert has_tags("```<|im_start|>user```")
    assert not has_tags("Once upon a time")
