"""The local model's own words are the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from spillover.cloud_fallback.policy.settings import PolicySettings
from tests.answers import REST
from tests.edge_server.handoff_reasons.place import WHOLE, MakePlace, check, said, script
from tests.edge_server.routed import follow
from tests.fakes.script import Act


def forced(*tokens: int, **fields: Any) -> dict[str, Any]:
    """A body whose local answer begins with *tokens*, all different, in order."""
    biases = {str(token): 100.0 - 10 * n for n, token in enumerate(tokens)}
    penalty = {"repeat_penalty": 10.0, "repeat_last_n": 64}
    return {"logit_bias": biases, **penalty, "max_tokens": 300, **fields}


def test_a_loop_is_cut_before_its_second_round(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    (word,) = token_ids(" fox")
    answer = follow(place.server, logit_bias={str(word): 100.0}, max_tokens=300)
    assert answer.reasons == ["repetition"]
    assert answer.of("handoff")[0]["signals"]["copies"] >= 3
    assert answer.text.count("fox") <= 1
    assert answer.text.endswith(WHOLE if "fox" not in answer.text else REST)
    assert "fox fox" not in place.fake.requests[-1].body


def test_control_tokens_in_the_text_never_reach_client_or_cloud(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    answer = follow(place.server, **forced(*token_ids("The end [INST]")))
    assert answer.reasons == ["template_leak"]
    assert "[INST" not in answer.plain
    assert "INST" not in place.fake.requests[-1].body
    assert answer.plain.startswith("The end")
    assert answer.text == WHOLE  # so little is begun anew


def test_an_answer_that_goes_over_to_another_script_is_taken_back(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    first, second = token_ids("а")  # noqa: RUF001  # Cyrillic
    body = forced(first, second, repeat_last_n=1)
    answer = follow(place.server, **body)
    assert answer.reasons == ["wrong_script"]
    assert answer.of("handoff")[0]["signals"] == {"foreign_letters": 16}
    assert answer.text == WHOLE
    assert "а" not in place.fake.requests[-1].body  # noqa: RUF001


def test_a_refusal_is_never_seen(make_place: MakePlace) -> None:
    place = make_place()
    script(place)
    question = said("What is the capital of France?")
    answer = follow(place.server, messages=question)
    check(place, answer, "refusal", began=False)
    assert answer.plain == WHOLE


def test_an_answer_without_a_word_is_none(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    place = make_place()
    script(place)
    end = 2
    answer = follow(place.server, logit_bias={str(end): 100.0})
    check(place, answer, "empty", began=False)


THINKS = """
chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}<think>"
"""


def test_a_reasoning_without_an_answer(
    make_place: MakePlace, token_ids: Callable[[str], list[int]]
) -> None:
    """The model ends behind its first thought."""
    place = make_place(top=THINKS)
    script(place)
    end = 2
    answer = follow(place.server, **forced(*token_ids(" bird"), end))
    check(place, answer, "no_answer", began=False)


def test_a_response_format_that_the_local_model_cannot_be_held_to(make_place: MakePlace) -> None:
    """It used to be a 400, although a provider supports the format."""
    place = make_place()
    place.fake.script(Act(text='{"names": ["Ruby", "Max"]}'))
    names = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"type": "object", "properties": {"names": names}, "required": ["names"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = follow(place.server, response_format=response_format)
    assert answer.reasons == ["schema"], answer
    assert json.loads(answer.text) == {"names": ["Ruby", "Max"]}
    alone = follow(place.server, response_format=response_format, spillover={"only": "local_only"})
    assert alone.error["type"] == "invalid_request_error"
    assert "uniqueItems" in alone.error["message"]


KEEN = """
[policy]
switched_off = ["refusal"]
"""


def test_a_doubtful_answer_is_handed_over(make_place: MakePlace) -> None:
    place = make_place(KEEN)
    script(place)
    question = said("Explain the history of the Byzantine tax system.")
    answer = follow(place.server, messages=question)
    assert answer.reasons == ["low_confidence"], answer
    signals = answer.of("handoff")[0]["signals"]
    assert signals["p_wrong"] >= signals["threshold"] >= PolicySettings().p_wrong_enter
    assert answer.text.endswith(("The end.", WHOLE))
