"""Reasons that are known before the first token, and those of the user."""

from __future__ import annotations

from typing import Any

import pytest

from tests.edge_server.handoff_reasons.place import LONG, MakePlace, check, said, script
from tests.edge_server.routed import follow, hand_over

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


@pytest.mark.parametrize(
    ("reason", "body", "reading", "signals"),
    [
        ("rule", {"messages": said("What is a cumulus?")}, None, {"rule": 0}),
        ("rule", {"messages": said("Read C-123456 to me.")}, None, {"rule": 1}),
        ("tools", {"tools": [TOOL]}, None, {"n_tools": 1}),
        (
            "language",
            {"messages": said("Erzähl mir bitte eine Geschichte von einem Fuchs.")},
            None,
            {},
        ),
        ("context", {"messages": said("Ruby the fox saw a bird. " * 400)}, None, {"n_ctx": 1024}),
        ("memory", {}, {"free": 0.01}, {"memory_low": 0.04}),
        ("thermal", {}, {"celsius": 93.0}, {"temperature_c": 93.0, "temperature_high_c": 90.0}),
        ("battery", {}, {"charge": 7, "plugged": False}, {"battery": 0.07, "battery_low": 0.1}),
    ],
)
def test_a_reason_known_before_the_start_sends_the_whole_answer_to_the_cloud(
    make_place: MakePlace,
    reason: str,
    body: dict[str, Any],
    reading: dict[str, Any] | None,
    signals: dict[str, float | None],
) -> None:
    place = make_place()
    script(place)
    if reading is not None:
        place.feels(**reading)
    answer = follow(place.server, **body)
    check(place, answer, reason, began=False, signals=signals)


def test_a_battery_that_is_being_charged_is_not_low(make_place: MakePlace) -> None:
    place = make_place()
    place.feels(charge=3, plugged=True)
    assert follow(place.server, max_tokens=20).reasons == []


@pytest.mark.parametrize("wish", [{"prefer": "cloud"}, {"only": "cloud_only"}])
def test_the_user_asks_before_the_start(make_place: MakePlace, wish: dict[str, str]) -> None:
    place = make_place()
    script(place)
    check(place, follow(place.server, spillover=wish), "user", began=False)


def test_the_user_asks_in_mid_answer(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    check(place, follow(place.server, hand_over(place.server), **LONG), "user", began=True)


def test_the_next_turn_stays_where_the_conversation_went(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    first = said("What is a cumulus?")
    answer = follow(place.server, messages=first)
    turns = [
        *first,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "Tell me a story about a fox."},
    ]
    title = follow(place.server, messages=turns, max_tokens=4, priority="background")
    assert title.reasons == []  # what is asked in the background is no turn
    check(place, follow(place.server, messages=turns), "sticky", began=False)
