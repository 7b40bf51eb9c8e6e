"""What tokens cost, and how many a sum of money buys."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.spending.prices import FREE, Prices, estimate, estimated_prompt_tokens
from spillover.runtime.request import GenerationRequest, Message, Tool

USD = st.floats(0, 1000, allow_nan=False).map(lambda usd: round(usd, 4))
COUNTS = st.integers(0, 10**7)


def prices(input_usd: float, output_usd: float, cached_usd: float | None = None) -> Prices:
    return Prices(
        input_usd=input_usd,
        output_usd=output_usd,
        cached_input_usd=cached_usd,
        priced_on=date(2026, 5, 1),
    )


@pytest.mark.parametrize(
    ("table", "tokens", "nano_usd"),
    [
        (prices(3, 15), (1_000_000, 1_000_000, 0), 18_000_000_000),
        (prices(0.15, 0.6), (1000, 500, 0), 450_000),
        (prices(0.15, 0.6), (1, 0, 0), 150),
        (prices(0.0375, 0), (1, 0, 0), 38),
        (prices(3, 15, 0.3), (1000, 0, 1000), 300_000),
        (prices(3, 15), (1000, 0, 1000), 3_000_000),
        (FREE, (10**9, 10**9, 0), 0),
    ],
)
def test_the_cost_of_a_request_in_nano_dollars(
    table: Prices, tokens: tuple[int, int, int], nano_usd: int
) -> None:
    assert table.nano_usd(*tokens) == nano_usd
    assert table.cost_usd(*tokens) == nano_usd / 1e9


@given(table=st.builds(prices, USD, USD), prompt=COUNTS, extra=COUNTS)
def test_the_longest_answer_is_affordable_and_one_token_more_is_not(
    table: Prices, prompt: int, extra: int
) -> None:
    money = table.nano_usd(prompt, 0) + extra
    longest = table.longest(prompt, money)
    if longest is None:
        assert table.output_usd == 0
        return
    assert table.nano_usd(prompt, longest) <= money
    assert table.nano_usd(prompt, longest + 2) > money or table.output_usd < 0.001


def test_everything_that_is_sent_is_estimated() -> None:
    said = Message(role="user", content="x" * 300)
    bare = GenerationRequest(messages=(said,))
    tool = Tool(name="look", description="y" * 300, parameters={"z": "z" * 300})
    assert estimated_prompt_tokens(bare) >= 100
    with_tool = GenerationRequest(messages=(said,), tools=(tool,))
    assert estimated_prompt_tokens(with_tool) >= estimated_prompt_tokens(bare) + 200
    assert estimated_prompt_tokens(GenerationRequest(prompt=(1, 2, 3))) == 3


def test_what_is_not_sent_is_not_estimated() -> None:
    said = Message(role="assistant", content="x" * 300)
    bare = estimated_prompt_tokens(GenerationRequest(messages=(said,)))
    assert bare <= 100 + 30  # the text, its role, and what stands around each message
    thought = Message(role="assistant", content="x" * 300, reasoning="y" * 9_000)
    assert estimated_prompt_tokens(GenerationRequest(messages=(thought,))) == bare


def test_each_choice_may_be_as_long_as_max_tokens() -> None:
    request = GenerationRequest(prompt="hi", max_tokens=100, n=3)
    assert estimate(request, None).max_completion_tokens == 300
    assert estimate(GenerationRequest(prompt="hi"), None).max_completion_tokens is None


def test_text_with_broken_surrogates_is_counted_too() -> None:
    assert estimated_prompt_tokens(GenerationRequest(prompt="\ud83d")) > 0
