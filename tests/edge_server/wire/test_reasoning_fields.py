"""How a chat completion's body steers reasoning: its budget, its effort, and where it is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.openai.chat import ChatBody, chat_request
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.request import AnswerDefaults, GenerationRequest
from spillover.runtime.worker.intake import within_effort

STORY: Any = [{"role": "user", "content": "Tell me a story."}]
READS_EFFORT = "{{ reasoning_effort }}"


def asked(**fields: Any) -> GenerationRequest:
    body = decode(json.dumps({"messages": STORY, **fields}).encode(), ChatBody)
    return chat_request(body, AnswerDefaults())


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, None),
        ({"thinking_budget_tokens": 100}, 100),
        ({"reasoning_budget": 100}, 100),
        ({"reasoning_budget": 0}, 0),
        ({"reasoning_budget": -1}, None),
        ({"thinking_budget_tokens": 7, "reasoning_budget": 100}, 7),
        ({"thinking_budget_tokens": -1, "reasoning_budget": 100}, None),
    ],
)
def test_a_budget_has_two_names(fields: dict[str, int], budget: int | None) -> None:
    assert asked(**fields).thinking_budget == budget


@pytest.mark.parametrize("name", ["thinking_budget_tokens", "reasoning_budget"])
@pytest.mark.parametrize("value", [-2, 10**9, "many", 1.5])
def test_a_wrong_budget_is_named_as_it_was_sent(name: str, value: Any) -> None:
    with pytest.raises(WireError) as caught:
        asked(**{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("low", 1_024), ("medium", 8_192), ("high", None), ("none", None), ("as you like", None)],
)
def test_an_effort_is_a_budget_where_the_template_knows_none(
    effort: str, budget: int | None
) -> None:
    request = asked(reasoning_effort=effort)
    assert within_effort(request, "{{ messages }}").thinking_budget == budget
    assert within_effort(request, READS_EFFORT).thinking_budget is None
    own = asked(reasoning_effort=effort, reasoning_budget=5)
    assert within_effort(own, "{{ messages }}").thinking_budget == 5


@pytest.mark.parametrize(
    ("effort", "thinks"), [("none", False), ("minimal", False), ("low", True), ("high", True)]
)
def test_an_effort_of_nothing_switches_reasoning_off(effort: str, thinks: bool) -> None:
    kwargs = asked(reasoning_effort=effort).template_kwargs
    assert kwargs == {"reasoning_effort": effort, "enable_thinking": thinks}


@pytest.mark.parametrize(
    ("fields", "splits"),
    [
        ({}, True),
        ({"reasoning_format": "auto"}, True),
        ({"reasoning_format": "deepseek"}, True),
        ({"reasoning_format": "none"}, False),
    ],
)
def test_the_format_says_whether_reasoning_is_split(fields: dict[str, str], splits: bool) -> None:
    assert asked(**fields).split_reasoning is splits


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(WireError) as caught:
        asked(reasoning_format="xml")
    assert caught.value.param == "reasoning_format"
